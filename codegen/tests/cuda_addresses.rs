//! Addresses in tensors of 2^31 elements and more, as a large vocabulary has: what looks at them counts in 64 bits, and
//! nothing else does. Where a position cannot be counted, no kernel is written.

#[path = "support/nvrtc.rs"]
mod installed;

use diptych_codegen::cuda::{Architecture, KernelText, file_text, write};
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::EntryOptions;
use diptych_codegen::tile::{Base, Dot, Place, Stmt, TileProgram};
use diptych_ir::EntryKind;
use diptych_models::{Registry, build};
use diptych_nvrtc::{Form, KernelCache};
use diptych_passes::AdamWOptions;
use installed::nvrtc;
use serde_json::{Value, json};

const EMBED: usize = 8192;

/// DeepSeek-V3 in small, with some of its fields changed.
fn compiled(changes: &Value, kinds: &[EntryKind], architecture: Architecture) -> CompiledProgram {
    let registry = Registry::zoo();
    let preset = registry.preset("moe-latent-tiny").expect("a preset");
    let mut config = preset.describe();
    config.as_object_mut().expect("fields").extend(changes.as_object().expect("fields").clone());
    let model = registry.architecture(preset.name(), &config).expect("an architecture");
    let program = build(&*model).expect("a program");
    let options = EntryOptions::cuda(architecture);
    compile_program(&program, kinds, &AdamWOptions::default(), options)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn check_compiles(kernel: &KernelText, architecture: Architecture) {
    let Some(nvrtc) = nvrtc() else { return };
    let target = architecture.name().parse().expect("a target");
    let text = file_text([kernel]);
    let compiled = KernelCache::standard().compile(&nvrtc, &text, "kernel.cu", target, Form::Cubin);
    compiled.unwrap_or_else(|error| panic!("{}: {error}", kernel.name));
}

/// The kernel that forms the gradient of an embedding of so many tokens.
fn gradient_of_embedding(vocab: usize) -> KernelText {
    let sizes = json!({ "dtype": "bf16", "layers": 2, "embed": EMBED, "vocab": vocab });
    let mut program = compiled(&sizes, &[EntryKind::Train], Architecture::Sm90a);
    let entry = program.entries.remove(&EntryKind::Train).expect("an entry");
    let what = format!("put_add: f32[embed={EMBED}, vocab={vocab}]");
    entry.device_kernels.into_iter().find(|kernel| kernel.text.contains(&what)).expect("its gradient")
}

#[test]
fn gradients_of_a_large_vocabulary_have_long_addresses() {
    // The last row begins at 2^31 exactly, and before it.
    let (long, short) = (gradient_of_embedding((1 << 18) + 1), gradient_of_embedding(1 << 18));
    let (place, cast) = (format!("i_vocab * {EMBED}"), format!("(long long)i_vocab * {EMBED}"));
    assert!(long.text.contains(&cast), "{}", long.text);
    assert!(short.text.contains(&place) && !short.text.contains(&cast), "{}", short.text);
    check_compiles(&long, Architecture::Sm90a);
}

/// Experts lie in panels, of which none is so long: together they have 2^31.8 elements.
#[test]
fn experts_of_a_large_model_are_counted() {
    let large = json!({ "dtype": "bf16", "layers": 2, "embed": 7168, "experts": 256, "expert_hidden": 2048 });
    for architecture in Architecture::ALL {
        let program = compiled(&large, &[EntryKind::Train, EntryKind::Decode], architecture);
        let kernels = program.entries.values().flat_map(|entry| &entry.device_kernels);
        let of_experts: Vec<&KernelText> = kernels.filter(|kernel| kernel.text.contains("1835008")).collect();
        assert!(of_experts.len() >= 4, "{architecture}: {}", of_experts.len());
    }
}

/// A kernel of decoding with a change of the first dot that `change` takes.
fn changed(
    architecture: Architecture,
    change: &mut dyn FnMut(&mut Dot, &[bool]) -> bool,
) -> Result<KernelText, String> {
    let program = compiled(&json!({ "dtype": "bf16" }), &[EntryKind::Decode], architecture);
    let takes = |program: &mut TileProgram, change: &mut dyn FnMut(&mut Dot, &[bool]) -> bool| {
        let fixed: Vec<bool> = program.dims.iter().map(|dim| dim.extent.is_fixed()).collect();
        program.body.iter_mut().any(|stmt| match stmt {
            Stmt::Dot(dot) => change(dot, &fixed),
            _ => false,
        })
    };
    let programs = program.entries[&EntryKind::Decode].programs.clone();
    let mut found =
        programs.into_iter().filter_map(|mut program| takes(&mut program, change).then_some(program));
    write(&found.next().expect("a dot"), "changed", architecture).map_err(|error| error.to_string())
}

#[test]
fn columns_that_are_far_apart_have_long_addresses() {
    for architecture in [Architecture::Sm80, Architecture::Sm90a] {
        let kernel = changed(architecture, &mut |dot, fixed| {
            let of_argument = matches!(dot.a.base, Base::Arg(_));
            let k = dot.k.clone();
            let is_summed = |dim: &usize| k.contains(dim) && fixed[*dim];
            let strides = dot.a.strides.iter_mut().filter(|(dim, _)| is_summed(dim));
            of_argument && strides.map(|entry| entry.1 <<= 28).count() > 0
        });
        let kernel = kernel.unwrap();
        assert!(kernel.text.contains("far_strided<const "), "{}", kernel.text);
        check_compiles(&kernel, architecture);
    }
}

#[test]
fn panels_that_cannot_be_counted_are_refused() {
    let refused = changed(Architecture::Sm90a, &mut |dot, _| match &mut dot.b {
        Place::Packed(view) => {
            view.depth = 1 << 26;
            true
        }
        Place::Strided(_) => false,
    });
    let error = refused.expect_err("too many rows");
    assert!(error.contains("67108864 x") && error.contains("too many"), "{error}");
}
