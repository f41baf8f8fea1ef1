//! Real programs, trained and optimised, keep every part as text.

use diptych_ir::text::{parse, print};
use diptych_ir::verify;
use diptych_models::{Registry, build};
use diptych_passes::{AdamWOptions, add_adamw, differentiate};

#[test]
fn trained_programs_of_the_zoo_read_back() {
    for family in Registry::zoo().families() {
        for (name, config) in &family.presets {
            let program = build(&*(family.parse)(config).unwrap()).unwrap();
            let program = differentiate(&program).unwrap();
            let program = add_adamw(&program, &AdamWOptions::default()).unwrap();
            verify(&program).unwrap();
            let text = print(&program);
            let read = parse(&text).unwrap();
            verify(&read).unwrap();
            assert_eq!(print(&read), text, "{name}");
            assert_eq!(read.params, program.params, "{name}");
            assert_eq!(read.states, program.states, "{name}");
        }
    }
}
