//! The model definition language, the zoo of architectures, and import and export of Hugging Face checkpoints.
