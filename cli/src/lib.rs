//! The diptych command: one file a subcommand, and the reports that it writes.
