//! Every kernel of a model of production size is taken by NVRTC for every architecture and spills no register. What the
//! writer says of kernels holds: what tensor cores multiply. All tiles of the zoo fit in shared memory.

#[path = "support/nvrtc.rs"]
mod installed;

use diptych_codegen::cuda::{Architecture, KernelText, file_text, step};
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::EntryOptions;
use diptych_ir::EntryKind;
use diptych_models::{Registry, build};
use diptych_nvrtc::{Form, KernelCache, KernelCode, Nvrtc, disassemble, find_nvdisasm};
use diptych_passes::AdamWOptions;
use installed::nvrtc;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::mem::offset_of;

fn compiled(
    preset: &str,
    changes: &Value,
    kinds: &[EntryKind],
    architecture: Architecture,
) -> CompiledProgram {
    let registry = Registry::zoo();
    let preset = registry.preset(preset).expect("a preset");
    let mut config = preset.describe();
    let changes = changes.as_object().expect("fields").clone();
    config.as_object_mut().expect("fields").extend(changes);
    let model = registry.architecture(preset.name(), &config).expect("an architecture");
    let program = build(&*model).expect("a program");
    let optimizer = AdamWOptions { clip_norm: None, ..AdamWOptions::default() };
    compile_program(&program, kinds, &optimizer, EntryOptions::cuda(architecture))
        .unwrap_or_else(|error| panic!("{}: {error}", preset.name()))
}

/// All kernels of a program by name, each once.
fn kernels(program: &CompiledProgram) -> BTreeMap<&str, &KernelText> {
    let all = program.entries.values().flat_map(|entry| &entry.device_kernels);
    all.map(|kernel| (kernel.name.as_str(), kernel)).collect()
}

/// Compiles kernels, some a file, none of which spills a register or waits for each product, and gives each file's
/// kernels and machine code.
fn compile<'a>(
    nvrtc: &Nvrtc,
    kernels: &BTreeMap<&'a str, &'a KernelText>,
    architecture: Architecture,
) -> Vec<(Vec<&'a KernelText>, Vec<u8>)> {
    const A_FILE: usize = 8;
    let target = architecture.name().parse().expect("a target");
    let cache = KernelCache::standard();
    let kernels: Vec<&KernelText> = kernels.values().copied().collect();
    let files = kernels.chunks(A_FILE).map(|file| {
        let text = file_text(file.iter().copied());
        let compiled = cache
            .compile(nvrtc, &text, "kernels.cu", target, Form::Cubin)
            .unwrap_or_else(|error| panic!("{architecture}: {error}"));
        // The assembler says so where it waits after each product.
        assert!(!compiled.log.contains("wgmma.mma_async instructions are serialized"), "{}", compiled.log);
        for kernel in file {
            let used = compiled.kernel(&kernel.name).expect("what it uses");
            let spilled = used.spill_stores + used.spill_loads + used.stack_bytes;
            assert!(spilled == 0 && used.registers <= 255, "{}: {used:?}", kernel.name);
        }
        (file.to_vec(), compiled.cubin)
    });
    files.collect()
}

#[test]
fn no_tile_of_the_zoo_is_in_scratch() {
    for architecture in Architecture::ALL {
        for preset in ["gpt2-tiny", "llama-tiny", "mla-tiny"] {
            // Kernels of floats are written as for sm_90a.
            let dtypes: &[&str] = if architecture.has_tensor_memory() { &["bf16"] } else { &["f32", "bf16"] };
            for &dtype in dtypes {
                let program = compiled(preset, &json!({ "dtype": dtype }), &EntryKind::ALL, architecture);
                let kernels = kernels(&program);
                assert!(kernels.len() > 20, "{preset}: {}", kernels.len());
                for kernel in kernels.values() {
                    let (name, tiles) = (&kernel.name, &kernel.scratch_tiles);
                    assert!(tiles.is_empty(), "{architecture} {preset} {dtype} {name}: {tiles:?}");
                }
            }
        }
    }
}

/// What the text gives to tensor cores goes there, with its operands copied on the way. Whether it gives them
/// something.
fn check_tensor_cores(kernel: &KernelText, code: &KernelCode) -> bool {
    let given = kernel.text.contains("dot_bf16<");
    assert_eq!(given, code.count("HMMA") > 0, "{}", kernel.name);
    assert!(!given || code.count("LDSM") > 0, "{}", kernel.name);
    assert_eq!(kernel.text.contains("COPY_ASYNC"), code.count("LDGSTS") > 0, "{}", kernel.name);
    given
}

/// Warpgroups multiply, or a thread that they wait for, and nothing else for them does; TMA copies, into three slots at
/// least. Where it copies both operands, little else is in the main loop.
fn check_warpgroups(kernel: &KernelText, code: &KernelCode, dot: &str, opcode: &str) -> bool {
    let name = &kernel.name;
    let given = kernel.text.contains(dot);
    for multiplies in ["HMMA", "HGMMA", "UTCHMMA"] {
        assert_eq!(given && multiplies == opcode, code.count(multiplies) > 0, "{name}: {multiplies}");
    }
    assert_eq!(given, code.count("UTMALDG") > 0, "{name}");
    if !given {
        return false;
    }
    let slots = kernel.text.split_once("// Ring: ").and_then(|(_, rest)| rest.split_once(" slots"));
    let slots: usize = slots.expect("a ring").0.parse().expect("a number");
    assert!(slots >= 3, "{name}: {slots}");
    let copied = !["IN_REGISTERS", "BY_PIECES", "BY_ELEMENTS", "_ZEROED"]
        .iter()
        .any(|from| kernel.text.contains(from));
    let main = code.main_loop.as_ref().expect("a main loop");
    println!(
        "{name}: {slots} slots, {} of {} instructions of the main loop for tensor cores",
        main.tensor_core, main.instructions
    );
    // Triton's products have 4.4 to 4.9%: see docs/gpu.md.
    assert!(!copied || main.tensor_core_share() > 0.06, "{name}: {main:?}");
    true
}

/// The kernels of a model of production size for an architecture.
fn check_production(architecture: Architecture) {
    let Some(nvrtc) = nvrtc() else { return };
    let size = json!({
        "dtype": "bf16", "embed": 4096, "hidden": 14336, "heads": 32, "key_value_heads": 8, "head_dim": 128,
        "context": 8192, "vocab": 128256, "layers": 2,
    });
    let kinds = [EntryKind::Train, EntryKind::Prefill, EntryKind::Decode];
    let program = compiled("llama-tiny", &size, &kinds, architecture);
    let files = compile(&nvrtc, &kernels(&program), architecture);
    if find_nvdisasm().is_err() {
        println!("skipped: machine code is not looked at without nvdisasm");
        return;
    }
    let mut tensor_cores = 0;
    for (kernels, cubin) in &files {
        let codes = disassemble(cubin).expect("machine code");
        for kernel in kernels {
            let code = codes.iter().find(|code| code.name == kernel.name).expect("the kernel");
            tensor_cores += usize::from(match architecture {
                Architecture::Sm80 => check_tensor_cores(kernel, code),
                Architecture::Sm90a => check_warpgroups(kernel, code, "dot_wgmma<", "HGMMA"),
                Architecture::Sm100a => check_warpgroups(kernel, code, "dot_tcgen05<", "UTCHMMA"),
            });
        }
    }
    // Each product of a layer, forwards and backwards, and of attention.
    assert!(tensor_cores >= 20, "{tensor_cores}");
}

#[test]
fn kernels_of_production_size_compile_for_sm_80() {
    check_production(Architecture::Sm80);
}

#[test]
fn kernels_of_production_size_compile_for_sm_90a() {
    check_production(Architecture::Sm90a);
}

#[test]
fn kernels_of_production_size_compile_for_sm_100a() {
    check_production(Architecture::Sm100a);
}

#[test]
fn tables_of_a_step_lie_as_in_cuda() {
    let Some(nvrtc) = nvrtc() else { return };
    let offsets = [
        ("rows", offset_of!(step::StepTables, rows)),
        ("batch", offset_of!(step::StepTables, batch)),
        ("blocks", offset_of!(step::StepTables, blocks)),
        ("past_blocks", offset_of!(step::StepTables, past_blocks)),
        ("chunk_stride", offset_of!(step::StepTables, chunk_stride)),
        ("turn", offset_of!(step::StepTables, turn)),
        ("row_position", offset_of!(step::StepTables, row_position)),
        ("row_cache", offset_of!(step::StepTables, row_cache)),
        ("sequence_row", offset_of!(step::StepTables, sequence_row)),
        ("sequence_origin", offset_of!(step::StepTables, sequence_origin)),
        ("block_sequence", offset_of!(step::StepTables, block_sequence)),
        ("block_index", offset_of!(step::StepTables, block_index)),
        ("past_block_sequence", offset_of!(step::StepTables, past_block_sequence)),
        ("past_block_index", offset_of!(step::StepTables, past_block_index)),
        ("chunk_row", offset_of!(step::StepTables, chunk_row)),
        ("sequence_state", offset_of!(step::StepTables, sequence_state)),
    ];
    let mut text = file_text([]);
    for (field, offset) in offsets {
        text.push_str(&format!(
            "static_assert(__builtin_offsetof(step_tables, {field}) == {offset}, \"{field}\");\n"
        ));
    }
    text.push_str(&format!(
        "static_assert(sizeof(step_tables) == {}, \"size\");\n",
        size_of::<step::StepTables>()
    ));
    let target = Architecture::Sm80.name().parse().expect("a target");
    nvrtc.compile(&text, "step.cu", target, Form::Ptx).unwrap_or_else(|error| panic!("{error}"));
    let wrong = text.replace("(step_tables, turn) == ", "(step_tables, turn) == 4 + ");
    assert!(nvrtc.compile(&wrong, "step.cu", target, Form::Ptx).is_err());
}

#[test]
fn a_kernel_can_be_read() {
    let program =
        compiled("llama-tiny", &json!({ "dtype": "bf16" }), &[EntryKind::Score], Architecture::Sm80);
    let attention =
        kernels(&program).into_values().find(|kernel| kernel.name.contains("reduce_max_reduce_sum"));
    insta::assert_snapshot!(attention.expect("attention").text);
}
