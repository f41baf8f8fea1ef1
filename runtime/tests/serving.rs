//! Serving against transformers: the greedy continuation of every fixture
//! through prefill and decode with a cache, and what a server refuses.

use diptych_ir::EntryKind;
use diptych_models::Registry;
use diptych_models::hugging_face::Checkpoint;
use diptych_passes::AdamWOptions;
use diptych_runtime::decode::{Generation, Outcome, ServeOptions, Server, generate};
use diptych_runtime::sampling::{Sampler, SamplingOptions};
use diptych_runtime::session::{Device, Session};
use safetensors::SafeTensors;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

const FIXTURES: [&str; 10] = [
    "gpt2",
    "llama",
    "llama3",
    "llama_linear",
    "mistral",
    "qwen2",
    "qwen3",
    "deepseek_v3",
    "deepseek_v3_no_q_lora",
    "deepseek_v3_yarn",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn integers(file: &SafeTensors<'_>, name: &str) -> Vec<i32> {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), safetensors::Dtype::I32, "{name}");
    tensor.data().chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn session(device: &Device, name: &str) -> Session {
    let checkpoint = Checkpoint::open(&folder(name), &Registry::zoo()).unwrap();
    let context = checkpoint.architecture().context();
    let kinds = [EntryKind::Prefill, EntryKind::Decode];
    let mut session =
        Session::compile(device, checkpoint.program(), context, &kinds, &AdamWOptions::default()).unwrap();
    for &param in session.compiled.program.params.keys() {
        session.store.set(param, &checkpoint.load_param(param.as_str()).unwrap()).unwrap();
    }
    session
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let device = Device::cpu(Some(2)).unwrap();
    for name in FIXTURES {
        let session = session(&device, name);
        let mut server = Server::new(&device, &session, ServeOptions::single(session.context)).unwrap();
        let bytes = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let (prompt, wanted) = (integers(&expected, "prompt"), integers(&expected, "continuation"));
        let greedy = SamplingOptions { temperature: 0.0, top_k: None, top_p: 1.0 };
        let mut sampler = Sampler::new(greedy, server.vocabulary()).unwrap();
        let mut found = Vec::new();
        let options = Generation { most_tokens: wanted.len(), stop: &[], seed: 0 };
        let outcome = generate(&mut server, &prompt, options, &mut sampler, |token| {
            found.push(token);
            ControlFlow::Continue(())
        });
        assert_eq!(outcome.unwrap(), Outcome::Length);
        assert_eq!(found, wanted, "{name}");
    }
}
