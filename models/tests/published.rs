//! Presets have exactly the parameters that their publishers state.

use diptych_models::zoo::published;
use diptych_models::{Registry, build, count_parameters};

#[test]
fn parameters_are_those_published() {
    let registry = Registry::zoo();
    for row in published() {
        let architecture = registry.preset(row.name).unwrap();
        assert_eq!(architecture.name(), row.family);
        let found = count_parameters(&build(&*architecture).unwrap()) as u64;
        assert_eq!(found, row.parameters, "{}", row.name);
    }
}
