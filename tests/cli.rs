//! The command line as a user meets it: what bad input is told, that nothing
//! is overwritten, and a small run from text to generated tokens.

#[path = "../gguf/tests/support/mod.rs"]
mod support;

use diptych::gguf::Format;
use diptych::ir::EntryKind;
use diptych::models::{Checkpoint, Held};
use diptych::passes::weight_blocks::{candidates, hold_in_blocks};
use diptych::runtime::session::{Device, Session};
use half::{bf16, f16};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{Gguf, Value};

fn diptych(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
    command.current_dir(folder).args(arguments).args(if with_threads(arguments) {
        &["--threads", "2"][..]
    } else {
        &[]
    });
    command.output().unwrap()
}

fn with_threads(arguments: &[&str]) -> bool {
    !matches!(arguments[0], "models" | "export" | "--help")
}

/// Runs a command that must be refused with exit code 2 and one message that has all of `expected`.
fn refused(folder: &Path, arguments: &[&str], expected: &[&str]) {
    let output = diptych(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
    let error = told.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    for part in expected {
        assert!(error.contains(part), "{arguments:?}: no `{part}` in: {told}");
    }
}

fn worked(folder: &Path, arguments: &[&str]) -> String {
    let output = diptych(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A folder with a text, and a configuration of a very small model.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let text: String =
        (0..400).map(|at| format!("Line {at} of a text about {} things.\n\n", at * 7 % 13)).collect();
    std::fs::write(place.path().join("text.txt"), text).unwrap();
    let config = "[model]\npreset = 'llama-tiny'\nvocab = 300\n[train]\nsteps = 6\nbatch = 2\nwarmup_steps = 1\n\
                  checkpoint_every = 3\nevaluate_every = 3\n[text]\ndata = 'text.txt'\n";
    std::fs::write(place.path().join("run.toml"), config).unwrap();
    place
}

#[test]
fn configurations_that_do_not_fit_are_told() {
    let place = place();
    let path = place.path();
    refused(path, &["train", "--model", "lama"], &["no preset `lama`", "llama-tiny"]);
    refused(path, &["train"], &["no model", "--model", "--config"]);
    let set = |setting: &str| {
        vec!["train", "--config", "run.toml", "--out", "out", "--set"]
            .into_iter()
            .map(str::to_owned)
            .chain([setting.to_owned()])
            .collect::<Vec<_>>()
    };
    for (setting, expected) in [
        ("model.layer=3", ["unknown field `layer`", "layers"]),
        ("model.heads=5", ["`heads`", "does not divide"]),
        ("model.key_value_heads=3", ["`key_value_heads` (3)", "does not divide `heads`"]),
        ("model.layers=0", ["`layers` is 0", "at least 1"]),
        ("model.head_dim=4611686018427387904", ["`head_dim` is 4611686018427387904", "at most 2147483647"]),
        ("model.head_dim=131072", ["`head_dim` is 131072", "at most 65536 to be rotated"]),
        ("model.embed=2147483646", ["would have", "elements; it can have at most"]),
        ("train.evaluate_tokens=0", ["`evaluate_tokens` is 0", "at least 1"]),
        ("train.step=3", ["unknown field `step`", "`steps`"]),
        ("train.time=65", ["`time` is 65", "context, 64"]),
        ("train.learning_rate=-1", ["`peak` is -1", "positive"]),
        ("serve.port=1", ["unknown table `serve`", "train"]),
    ] {
        let arguments = set(setting);
        refused(path, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), &expected);
    }
    std::fs::write(path.join("family.toml"), "[model]\nfamily = 'lama'\n").unwrap();
    refused(
        path,
        &["explain", "--config", "family.toml"],
        &["no family `lama`", "gpt2, hybrid, llama, mla, moe"],
    );
    std::fs::write(path.join("missing.toml"), "[model]\nfamily = 'llama'\nlayers = 1\n").unwrap();
    refused(path, &["compile", "--config", "missing.toml", "--out", "out"], &["missing field `vocab`"]);
    refused(path, &["explain", "--config", "nowhere.toml"], &["nowhere.toml", "No such file"]);
    refused(
        path,
        &["explain", "--model", "llama-tiny", "--entry", "serve"],
        &["no entry `serve`", "prefill"],
    );
    refused(path, &["explain", "--model", "llama-tiny", "--target", "h100-sxm"], &["`h100-sxm` is no CPU"]);
    assert!(!path.join("out").exists());
}

#[test]
fn a_vector_width_that_cannot_be_had_is_told() {
    let place = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
    command.current_dir(place.path()).env("DIPTYCH_VECTOR_WIDTH", "avx1024");
    let output = command.args(["explain", "--model", "llama-tiny"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("DIPTYCH_VECTOR_WIDTH: there is no vector width `avx1024`"), "{told}");
}

#[test]
fn texts_that_cannot_be_used_are_told() {
    let place = place();
    let path = place.path();
    std::fs::write(path.join("latin"), b"caf\xe9 au lait").unwrap();
    std::fs::create_dir(path.join("empty")).unwrap();
    std::fs::write(path.join("short"), "A few words.").unwrap();
    let train = |data: &'static str| ["train", "--config", "run.toml", "--out", "out", "--data", data];
    refused(path, &train("latin"), &["latin is not UTF-8", "byte 3"]);
    refused(path, &train("empty"), &["no text in empty", "at least one non-empty UTF-8 file"]);
    refused(path, &train("nowhere"), &["no file or folder at nowhere"]);
    refused(path, &train("short"), &["only 1 document", "longer text"]);
    assert!(!path.join("out").exists());
}

#[test]
fn a_run_trains_resumes_generates_scores_and_is_refused_where_it_does_not_fit() {
    let place = place();
    let path = place.path();
    worked(path, &["train", "--config", "run.toml", "--out", "run"]);
    let metrics = std::fs::read_to_string(path.join("run/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().filter(|line| line.contains("\"gradient_norm\"")).count(), 6);
    assert_eq!(metrics.lines().filter(|line| line.contains("\"held_out_loss\"")).count(), 2);

    // What is there is not overwritten.
    let kept = std::fs::read(path.join("run/step-00000006.safetensors")).unwrap();
    refused(path, &["train", "--config", "run.toml", "--out", "run"], &["run exists", "--force"]);
    refused(path, &["compile", "--model", "llama-tiny", "--out", "run"], &["run exists", "--force"]);
    refused(path, &["export", "--checkpoint", "run", "--out", "run"], &["run exists", "--force"]);
    refused(path, &["bench", "--data", "text.txt", "--out", "run"], &["run exists", "--force"]);
    refused(path, &["train", "--config", "run.toml", "--out", "text.txt"], &["text.txt is a file"]);
    assert_eq!(std::fs::read(path.join("run/step-00000006.safetensors")).unwrap(), kept);

    // Within less memory it ends with the same bits; what no choice keeps is refused, and nothing is written.
    let told = diptych(path, &["train", "--config", "run.toml", "--out", "tight", "--memory", "1"]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    let least = told.split_once(" bytes)").and_then(|start| start.0.rsplit_once('('));
    let least: Option<u64> = least.and_then(|digits| digits.1.parse().ok());
    assert!(least.is_some() && !path.join("tight").exists(), "{told}");
    refused(path, &["train", "--config", "run.toml", "--memory", "lots"], &["--memory lots", "600MiB"]);
    // The process itself differs a little from run to run.
    let memory = (least.unwrap_or(0) + (1 << 20)).to_string();
    worked(path, &["train", "--config", "run.toml", "--out", "tight", "--memory", &memory]);
    let tight = std::fs::read(path.join("tight/step-00000006.safetensors")).unwrap();
    assert!(tight == kept, "a run within {memory} bytes ends otherwise");

    // A run that was interrupted ends as one that was not.
    std::fs::create_dir(path.join("half")).unwrap();
    for file in ["run.toml", "metrics.jsonl", "tokenizer.json", "step-00000003.safetensors"] {
        std::fs::copy(path.join("run").join(file), path.join("half").join(file)).unwrap();
    }
    worked(path, &["train", "--resume", "half"]);
    assert!(
        std::fs::read(path.join("half/step-00000006.safetensors")).unwrap() == kept,
        "resuming changed bits"
    );
    let again = std::fs::read_to_string(path.join("half/metrics.jsonl")).unwrap();
    let losses = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split(",\"gradient_norm\"").next().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(losses(&again), losses(&metrics));

    let resume = ["train", "--resume", "run", "--set", "model.layers=3"];
    refused(path, &resume, &["another model", "`layers` is 2, expected 3"]);
    let other = ["train", "--resume", "run", "--data", "run.toml"];
    refused(path, &other, &["not the one that the run began with"]);

    let generate = ["generate", "--checkpoint", "run", "--prompt", "Line 1", "--tokens", "5"];
    let text = worked(path, &generate);
    assert_eq!(text, worked(path, &generate), "greedy text is always the same");
    let long = ["generate", "--checkpoint", "run", "--prompt", "Line 1", "--tokens", "64"];
    refused(path, &long, &["--tokens asks for 64", "context is 64", "ask for at most"]);
    let most = ["generate", "--checkpoint", "run", "--tokens", "18446744073709551615"];
    refused(path, &most, &["--tokens asks for 18446744073709551615", "context is 64"]);
    let nothing = ["score", "--checkpoint", "run", "--data", "text.txt", "--most-tokens", "0"];
    refused(path, &nothing, &["--most-tokens is 0", "at least 1"]);
    for (option, value, expected) in [
        ("--temperature", "nan", "`temperature` is NaN"),
        ("--top-p", "1.5", "`top_p` is 1.5"),
        ("--top-k", "0", "`top_k` is 0"),
        ("--stop", "", "--stop is empty"),
    ] {
        let arguments = ["generate", "--checkpoint", "run", "--tokens", "5", option, value];
        refused(path, &arguments, &[expected]);
    }
    assert_eq!(worked(path, &["generate", "--checkpoint", "run", "--tokens", "0"]), "\n");
    let cold = ["generate", "--checkpoint", "run", "--temperature", "-1"];
    refused(path, &cold, &["`temperature` is -1", "at least 0"]);
    let score = ["score", "--checkpoint", "run", "--data", "text.txt"];
    let scored = worked(path, &score);
    assert!(scored.contains("perplexity") && scored.contains('±'), "{scored}");
    let halves = worked(path, &[&score[..], &["--second-half", "--window", "8"]].concat());
    assert!(halves.contains("in windows of 8, the second half of each"), "{halves}");
    refused(path, &[&score[..], &["--second-half", "--window", "2"]].concat(), &["--window is 2", "3 to"]);

    // Weights of too few summed numbers for blocks, and of no file that has any.
    refused(path, &[&score[..], &["--weights", "q8"]].concat(), &["no weight can be held so"]);
    refused(path, &[&score[..], &["--weights", "stored"]].concat(), &["no weight can be held so"]);
    refused(path, &[&score[..], &["--weights", "q5"]].concat(), &["q5"]);

    // Weights that are damaged, or are not there.
    std::fs::write(path.join("cut.safetensors"), &kept[..kept.len() - 100]).unwrap();
    refused(path, &["generate", "--checkpoint", "cut.safetensors"], &["cut.safetensors"]);
    let start = u64::from_le_bytes(kept[..8].try_into().unwrap()) as usize + 8;
    for length in [0, 7, 8, 9, start - 1, start, start + 1] {
        std::fs::write(path.join("cut.safetensors"), &kept[..length]).unwrap();
        refused(path, &["generate", "--checkpoint", "cut.safetensors"], &["cut.safetensors is truncated"]);
    }
    for header in [0, 100_000_001, 1 << 63, u64::MAX] {
        let bytes = [&u64::to_le_bytes(header), &kept[8..]].concat();
        std::fs::write(path.join("header.safetensors"), bytes).unwrap();
        refused(path, &["generate", "--checkpoint", "header.safetensors"], &["is not a safetensors file"]);
    }
    let mut diverged = kept.clone();
    diverged[start..].fill(0xff);
    std::fs::copy(path.join("run/tokenizer.json"), path.join("tokenizer.json")).unwrap();
    std::fs::write(path.join("nan.safetensors"), diverged).unwrap();
    let generate = ["generate", "--checkpoint", "nan.safetensors", "--tokens", "5"];
    refused(path, &generate, &["logits must be finite"]);
    refused(path, &["generate", "--checkpoint", "text.txt"], &["text.txt"]);

    // Vocabularies that are damaged.
    let vocabulary = std::fs::read(path.join("run/tokenizer.json")).unwrap();
    for bytes in [&b""[..], b"{}", b"\xff\xfe", &vocabulary[..vocabulary.len() / 2]] {
        std::fs::write(path.join("damaged.json"), bytes).unwrap();
        let named = ["generate", "--checkpoint", "run", "--tokenizer", "damaged.json"];
        refused(path, &named, &["damaged.json"]);
    }
    std::fs::create_dir(path.join("none")).unwrap();
    refused(path, &["generate", "--checkpoint", "none"], &["no checkpoint in none", "step-NUMBER"]);
    refused(path, &["generate", "--checkpoint", "nowhere"], &["nowhere"]);

    // Out to the format of Hugging Face, and back.
    worked(path, &["export", "--checkpoint", "run", "--out", "exported"]);
    let back = ["generate", "--hugging-face", "exported", "--prompt", "Line 1", "--tokens", "5"];
    assert_eq!(worked(path, &back), text);
}

#[test]
fn ids_beyond_the_vocabulary_are_never_chosen() {
    let place = place();
    let path = place.path();
    let train = ["train", "--config", "run.toml", "--out", "run", "--steps", "1"];
    worked(path, &[&train[..], &["--set", "model.vocab=5000"]].concat());
    let generate = ["generate", "--checkpoint", "run", "--tokens", "50", "--temperature", "9"];
    assert!(worked(path, &generate).len() > 50);
}

#[test]
fn weights_of_others_are_checked() {
    let place = place();
    let path = place.path();
    let copy = |name: &str| {
        let folder = path.join(name);
        std::fs::create_dir(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture("llama").join(file), folder.join(file)).unwrap();
        }
        folder
    };
    let cut = copy("cut");
    let weights = std::fs::read(cut.join("model.safetensors")).unwrap();
    std::fs::write(cut.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    refused(path, &["generate", "--hugging-face", "cut"], &["model.safetensors", "truncated"]);
    let other = copy("other");
    let config = std::fs::read_to_string(other.join("config.json")).unwrap();
    std::fs::write(
        other.join("config.json"),
        config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
    )
    .unwrap();
    refused(path, &["generate", "--hugging-face", "other"], &["no tensor `model.layers.2."]);
    std::fs::write(other.join("config.json"), config.replace("\"llama\"", "\"lama\"")).unwrap();
    refused(path, &["generate", "--hugging-face", "other"], &["no model_type `lama`", "qwen3"]);
    copy("whole");
    refused(path, &["generate", "--hugging-face", "whole"], &["no vocabulary", "--tokenizer"]);
    refused(path, &["generate", "--hugging-face", "whole", "--checkpoint", "x"], &["cannot be used with"]);
}

/// A Llama of random weights in GGUF, some of them quantised, with the 256 bytes and two special tokens.
fn small_gguf() -> Gguf {
    small_gguf_in(|_| Format::Q8_0)
}

/// The same, with each matrix in the format that its name asks for: Q8_0, F16 or BF16.
fn small_gguf_in(format: impl Fn(&str) -> Format) -> Gguf {
    let mut file = Gguf::default();
    file.set("general.architecture", "llama");
    for (key, value) in [
        ("llama.block_count", 2),
        ("llama.context_length", 64),
        ("llama.embedding_length", 32),
        ("llama.feed_forward_length", 64),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 2),
        ("tokenizer.ggml.bos_token_id", 256),
        ("tokenizer.ggml.eos_token_id", 257),
    ] {
        file.set(key, Value::U32(value));
    }
    file.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    let mut hidden = '\u{100}'..;
    let bytes = (0..=255u8).map(|byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => hidden.next().unwrap(),
    });
    let tokens = bytes.map(String::from).chain(["<begin>".to_owned(), "<end>".to_owned()]).collect();
    file.set("tokenizer.ggml.model", "gpt2");
    file.set("tokenizer.ggml.pre", "smollm");
    file.set("tokenizer.ggml.tokens", Value::Texts(tokens));
    file.set("tokenizer.ggml.token_type", Value::Integers([vec![1; 256], vec![3; 2]].concat()));
    file.set("tokenizer.ggml.merges", Value::Texts(Vec::new()));
    let template = "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}";
    file.set("tokenizer.chat_template", template);
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as u32
    };
    let mut quantised = |file: &mut Gguf, name: &str, rows: usize, width: usize| {
        if format(name) != Format::Q8_0 {
            // Numbers below a quarter, and in f16 some that are denormal.
            let exponent = |bits: u32| if bits.is_multiple_of(7) { 1e-4 } else { 0.25 };
            let numbers = (0..rows * width).map(|_| random()).map(|bits| {
                let size = (bits & 0xffff) as f32 / 32768.0 - 1.0;
                size * exponent(bits >> 16)
            });
            let bits = |x: f32| match format(name) {
                Format::F16 => f16::from_f32(x).to_bits(),
                _ => bf16::from_f32(x).to_bits(),
            };
            let number = if format(name) == Format::F16 { 1 } else { 30 };
            file.tensor(name, &[rows, width], number, numbers.flat_map(|x| bits(x).to_le_bytes()).collect());
            return;
        }
        // Q8_0: a scale of 2^-8, and bytes.
        let block: Vec<u8> = (0..rows * width / 32)
            .flat_map(|_| {
                [0x00, 0x1c].into_iter().chain((0..32).map(|_| random() as u8)).collect::<Vec<u8>>()
            })
            .collect();
        file.tensor(name, &[rows, width], 8, block);
    };
    quantised(&mut file, "token_embd.weight", 258, 32);
    file.tensor_f32("output_norm.weight", &[32], &[1.0; 32]);
    for layer in 0..2 {
        for norm in ["attn_norm", "ffn_norm"] {
            file.tensor_f32(&format!("blk.{layer}.{norm}.weight"), &[32], &[1.0; 32]);
        }
        for (name, rows, width) in [
            ("attn_q", 32, 32),
            ("attn_k", 16, 32),
            ("attn_v", 16, 32),
            ("attn_output", 32, 32),
            ("ffn_gate", 64, 32),
            ("ffn_up", 64, 32),
            ("ffn_down", 32, 64),
        ] {
            quantised(&mut file, &format!("blk.{layer}.{name}.weight"), rows, width);
        }
    }
    file
}

/// Blocks that are taken from a file as they are hold the numbers that its format defines, each in its place: rows of
/// queries and keys stand in another order there.
#[test]
fn stored_blocks_hold_the_numbers_of_the_file() {
    let place = place();
    let path = place.path().join("small.gguf");
    std::fs::write(&path, small_gguf().bytes()).unwrap();
    let file = diptych::gguf::File::open(&path).unwrap();
    let checkpoint = Checkpoint::of_gguf(&file, &diptych::Registry::zoo()).unwrap();
    let formats = candidates(checkpoint.program()).into_iter().map(|(name, along)| {
        match checkpoint.held(name.as_str(), &along.unwrap()).unwrap() {
            Held::Blocks(format) => (name, format),
            other => panic!("{name}: {other:?}"),
        }
    });
    let program = hold_in_blocks(checkpoint.program(), &formats.collect()).unwrap();
    let device = Device::cpu(Some(1)).unwrap();
    let kinds = [EntryKind::Score];
    let mut session = Session::compile(&device, &program, 64, &kinds, &Default::default()).unwrap();
    let mut held = 0;
    for &name in program.params.keys() {
        let Some(columns) = session.store.columns(name) else { continue };
        for column in 0..columns.count() {
            let blocks = checkpoint.blocks(name.as_str(), columns.first(column), columns.depth()).unwrap();
            session.store.set_column(name, &columns, column, blocks).unwrap();
        }
        let numbers = session.store.get(name).unwrap();
        assert_eq!(numbers, checkpoint.load_param(name.as_str()).unwrap(), "{name}");
        held += 1;
    }
    assert_eq!(held, 8);
}

#[test]
fn gguf_files_generate_chat_score_and_are_exported() {
    let place = place();
    let path = place.path();
    let mut file = small_gguf();
    std::fs::write(path.join("small.gguf"), file.bytes()).unwrap();
    let generate = ["generate", "--gguf", "small.gguf", "--prompt", "Line 1", "--tokens", "8"];
    let text = worked(path, &generate);
    let chat = ["generate", "--gguf", "small.gguf", "--chat", "--prompt", "Line 1", "--tokens", "8"];
    let written = ["generate", "--gguf", "small.gguf", "--prompt", "<begin>user: Line 1", "--tokens", "8"];
    assert_eq!(worked(path, &chat), worked(path, &written));
    refused(path, &["generate", "--gguf", "small.gguf", "--chat"], &["--chat needs a message"]);
    let scored =
        worked(path, &["score", "--gguf", "small.gguf", "--data", "text.txt", "--most-tokens", "99"]);
    assert!(scored.contains("perplexity") && scored.contains('±'), "{scored}");
    // Blocks as the file has them, rounded anew to as many bits, and to fewer.
    let loss = |more: &[&str]| {
        let score = ["score", "--gguf", "small.gguf", "--data", "text.txt", "--most-tokens", "99"];
        let told = worked(path, &[&score[..], more].concat());
        let line = told.lines().find(|line| line.contains("nats/token")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
    };
    let whole = loss(&[]);
    for hold in ["stored", "q8", "q4"] {
        let held = loss(&["--weights", hold]);
        assert!((held - whole).abs() < 0.2 && held != whole, "{hold}: {held}, and {whole} in f32");
    }
    // What has 8 bits is there exactly in f16 and bf16.
    for hold in ["f16", "bf16"] {
        assert_eq!(loss(&["--weights", hold]), loss(&["--numerics", "as-written"]), "{hold}");
    }
    for cache in ["f16", "bf16", "q8"] {
        let held = loss(&["--cache", cache]);
        assert!((held - whole).abs() < 0.05, "{cache}: {held}, and {whole} in f32");
    }
    assert_eq!(loss(&["--cache", "f32"]), whole);
    for hold in ["stored", "q4"] {
        worked(path, &[&generate[..], &["--weights", hold]].concat());
    }
    let told = diptych(path, &[&generate[..], &["--weights", "stored"]].concat());
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("weights in q8_0: embedding, layers.down"), "{told}");
    worked(path, &["export", "--gguf", "small.gguf", "--out", "exported"]);
    let back = ["generate", "--hugging-face", "exported", "--prompt", "Line 1", "--tokens", "8"];
    assert_eq!(worked(path, &back), text);
    let told = ["no chat template in exported", "--prompt"];
    refused(path, &[&back[..], &["--chat"]].concat(), &told);

    let bytes = file.bytes();
    for length in [0, 3, 4, 23, 1000, bytes.len() - 1] {
        std::fs::write(path.join("cut.gguf"), &bytes[..length]).unwrap();
        refused(path, &["generate", "--gguf", "cut.gguf"], &["cut.gguf"]);
    }
    refused(path, &["generate", "--gguf", "nowhere.gguf"], &["nowhere.gguf"]);
    refused(path, &["generate", "--gguf", "small.gguf", "--checkpoint", "x"], &["cannot be used with"]);
    file.set("tokenizer.chat_template", "{{ raise_exception('no users') }}");
    file.set("tokenizer.ggml.tokens", Value::Texts((0..300).map(|id| format!("t{id}")).collect()));
    std::fs::write(path.join("other.gguf"), file.bytes()).unwrap();
    refused(path, &["generate", "--gguf", "other.gguf"], &["has 300 tokens, but the model has 258"]);
}

/// A GGUF file in f16 and bf16 is computed as it holds its weights, with the bits of the same numbers in f32; one that
/// also has blocks, each matrix as it is there.
#[test]
fn gguf_files_in_narrow_types_are_computed_as_stored() {
    let place = place();
    let path = place.path();
    let narrow = |name: &str| if name.starts_with("token") { Format::Bf16 } else { Format::F16 };
    std::fs::write(path.join("narrow.gguf"), small_gguf_in(narrow).bytes()).unwrap();
    let mixed = |name: &str| if name.contains("ffn") { Format::Q8_0 } else { narrow(name) };
    std::fs::write(path.join("mixed.gguf"), small_gguf_in(mixed).bytes()).unwrap();
    let score = |file: &str, more: &[&str]| {
        let score = ["score", "--gguf", file, "--data", "text.txt", "--most-tokens", "99"];
        worked(path, &[&score[..], more].concat())
    };
    let whole = score("narrow.gguf", &["--numerics", "as-written"]);
    assert_eq!(score("narrow.gguf", &["--weights", "stored"]), whole);
    // Rounded to bf16, the same matrices are others.
    assert_ne!(score("narrow.gguf", &["--weights", "bf16"]), whole);
    let told = diptych(path, &["score", "--gguf", "mixed.gguf", "--data", "text.txt", "--weights", "stored"]);
    let told = String::from_utf8(told.stderr).unwrap();
    for part in
        ["weights in bf16: embedding\n", "weights in f16: layers.k, ", "weights in q8_0: layers.down, "]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    worked(
        path,
        &["generate", "--gguf", "mixed.gguf", "--weights", "stored", "--cache", "q8", "--tokens", "5"],
    );
    for cache in ["f16", "bf16", "q8"] {
        let text = score("mixed.gguf", &["--weights", "stored", "--cache", cache]);
        assert_ne!(text, score("mixed.gguf", &["--weights", "stored"]), "{cache}");
    }
}

#[test]
fn what_is_compiled_can_be_read() {
    let place = place();
    let path = place.path();
    worked(path, &["compile", "--model", "llama-tiny", "--out", "compiled"]);
    let read = |name: &str| std::fs::read_to_string(path.join("compiled").join(name)).unwrap();
    diptych::ir::text::parse(&read("model.graph")).unwrap();
    diptych::ir::text::parse(&read("compiled.graph")).unwrap();
    assert!(read("decode.c").contains("void "));
    assert!(read("train.plan").starts_with("train: "));
    // A training step of recurrences has copies that the model's program has not.
    let explained = worked(path, &["explain", "--model", "hybrid-tiny"]);
    for part in [", copy", "scan(layers.", "predicted"] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    let explained = worked(path, &["explain", "--model", "llama-tiny", "--entry", "decode"]);
    for part in ["FLOP/byte", "predicted", "fuses", "embedding"] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    let width = explained.lines().map(|line| line.chars().count()).max();
    assert!(width.is_some_and(|width| width <= 120), "a line has {width:?} columns:\n{explained}");
    let picture = ["explain", "--model", "latent-512", "--entry", "decode", "--picture", "pictures"];
    let explained = worked(path, &picture);
    for part in ["pictures", "total", "wall clock", "unattributed", "What the algebra rewrote for decode"] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    let page = std::fs::read_to_string(path.join("pictures/index.html")).unwrap();
    assert!(page.contains("layers-decode-before.svg") && page.contains("layers-decode-after.svg"), "{page}");
    refused(path, &picture, &["pictures exists", "--force"]);
    worked(path, &[&picture[..], &["--force"]].concat());
    let stages = read("stages.txt");
    for part in ["layers: saturate", "train: fuse", "decode: C text", "unattributed"] {
        assert!(stages.contains(part), "{part}: {stages}");
    }
    assert!(worked(path, &["models"]).contains("bench-latent"));
}

#[test]
fn a_bench_writes_a_table_data_and_a_page() {
    let place = place();
    let path = place.path();
    let bench = [
        "bench",
        "--data",
        "text.txt",
        "--out",
        "found",
        "--steps",
        "3",
        "--time",
        "32",
        "--batch",
        "2",
        "--seconds",
        "2",
        "--model",
        "bench-multi-head",
        "--model",
        "bench-grouped-query",
    ];
    let table = worked(path, &bench);
    for row in [
        "held-out loss, nats/token",
        "decode at 1,984, tokens/s",
        "key-value cache, bytes/token",
        "numerics: same bits in training and serving, weights f32; cache: head_dim × kv_head, f32;",
    ] {
        assert!(table.contains(row), "{row}: {table}");
    }
    let text = std::fs::read_to_string(path.join("found/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let models = report["models"].as_array().unwrap();
    // 6 layers, keys and values of 8 or 2 heads of 32 f32.
    let cache = |model: &serde_json::Value| model["cache_bytes_per_token"].as_u64().unwrap();
    assert_eq!([cache(&models[0]), cache(&models[1])], [6 * 2 * 8 * 32 * 4, 6 * 2 * 2 * 32 * 4]);
    for model in models {
        let points = model["curve"].as_array().unwrap();
        assert_eq!(points.len(), 3);
        assert!(points[2]["loss"].as_f64() < points[0]["loss"].as_f64(), "{points:?}");
        let (peak, bound) = (model["peak_memory"].as_f64(), model["memory_bound"].as_f64().unwrap());
        // The text is small here, and so is what the run itself takes.
        assert!(peak.is_none_or(|peak| (0.7..=1.0).contains(&(peak / bound))), "{peak:?} of {bound}");
        assert!(model["decode"][0]["tokens_per_second"].as_f64() > Some(0.0));
    }
    assert!(std::fs::read_to_string(path.join("found/report.html")).unwrap().contains("<svg"));
    refused(path, &bench, &["found exists", "--force"]);
}

#[test]
fn architectures_are_compared_where_they_do_not_fit() {
    let place = place();
    let path = place.path();
    let flags = ["--target", "h100", "--batch", "1,8", "--context", "512"];
    let with = |more: &[&str]| {
        let mut all = vec!["compare", "llama-3-405b"];
        all.extend(flags);
        all.extend(more);
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |more: &[&str]| {
        let arguments = with(more);
        worked(path, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let table = run(&[]);
    assert!(table.contains("405,853,388,800") && table.contains("decode, 8 × 512"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&run(&["--json", "--out", "compared"])).unwrap();
    assert_eq!(json["models"][0]["parameters"].as_f64(), Some(405_853_388_800.0));
    assert!(std::fs::read_to_string(path.join("compared/compare.html")).unwrap().contains("<svg"));
    refused(path, &["compare", "llama-3-8b", "--out", "compared"], &["compared", "--force"]);
    refused(path, &["compare", "llama-4"], &["no preset `llama-4`", "llama-3-8b"]);
    refused(path, &["compare", "llama-3-8b", "--target", "h10"], &["no target `h10`", "h100-sxm"]);
    refused(path, &["compare", "llama-3-8b", "--batch", "1,0"], &["--batch", "at least 1"]);
    refused(path, &["compare", "absent.json"], &["cannot read", "absent.json"]);
    let config = fixture("llama").join("config.json").display().to_string();
    // Eight layers of the gated delta rule with every fourth attention: states of 4 heads, 64 × 64, and the inputs of
    // the three convolutions at the last three positions.
    let hybrid =
        worked(path, &["compare", "bench-hybrid", "--context", "64", "--batch", "1", "--target", "h100"]);
    let states = 6 * (4 * 64 * 64 + 3 * 3 * 4 * 64) * 4;
    let row = hybrid.lines().find(|line| line.starts_with("states, bytes/sequence")).unwrap();
    assert_eq!(row.chars().filter(char::is_ascii_digit).collect::<String>(), states.to_string(), "{row}");

    let imported = worked(path, &["compare", &config, "--context", "16", "--batch", "1"]);
    assert!(imported.contains("prefill, 1 × 16"), "{imported}");
}

#[test]
fn a_profile_has_an_owner_for_the_time_and_a_trace_that_can_be_read() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let bench = |more: &[&'static str]| {
        let mut arguments =
            vec!["bench", "--model", "llama-tiny", "--batch", "2", "--time", "64", "--steps", "2"];
        arguments.extend(more);
        arguments
    };
    let jobs = "--profile=train,prefill,decode";
    refused(path, &bench(&[jobs, "--prompt", "0"]), &["--prompt is 0", "context of `llama-tiny`, 64"]);
    refused(path, &bench(&[jobs, "--tokens", "2"]), &["--tokens is 2", "at least 1 and 3"]);
    refused(
        path,
        &["bench", "--model", "llama-tiny", jobs, "--time", "65"],
        &["--time 1 to the context of `llama-tiny`, 64"],
    );
    refused(path, &bench(&[jobs, "--trace", "nowhere/trace.json"]), &["no folder nowhere"]);
    let run = bench(&[jobs, "--prompt", "16", "--tokens", "9", "--trace", "trace.json"]);
    let table = worked(path, &run);
    for part in ["a training step of 2 × 64 tokens", "a prompt of 16 tokens", "a token after 16 to 24 others"]
    {
        assert!(table.contains(part), "no `{part}` in {table}");
    }
    let owned: Vec<f64> = table
        .lines()
        .filter(|line| line.contains("of the wall clock has an owner"))
        .map(|line| line.trim().split('%').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(owned.len(), 3, "{table}");
    // Tests run side by side: a thread may be put off where none of its slices is.
    assert!(owned.iter().all(|share| (80.0..=100.0).contains(share)), "{table}");
    let trace: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path.join("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |category: &str| events.iter().filter(|event| event["cat"] == category).count();
    assert_eq!((of("step"), of("run")), (2 + 2 + 4, 2 * 2 + 2 + 4));
    assert!(of("attention") > 0 && of("optimiser") > 0 && of("waiting") > 0);
    // Nanoseconds of all slices by track: on that of a thread none overlaps another, on that of steps they nest.
    let mut tracks = std::collections::BTreeMap::<(u64, u64), Vec<[u64; 2]>>::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let nanoseconds = |key: &str| (event[key].as_f64().unwrap() * 1e3).round() as u64;
        let track = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        let (start, taken) = (nanoseconds("ts"), nanoseconds("dur"));
        if taken > 0 {
            tracks.entry(track).or_default().push([start, start + taken]);
        }
    }
    assert_eq!(tracks.len(), 3 * 3);
    for ((_, track), mut slices) in tracks {
        slices.sort_by_key(|[start, end]| (*start, u64::MAX - end));
        let mut around: Vec<u64> = Vec::new();
        for [start, end] in slices {
            around.retain(|&outer| outer > start);
            assert!(around.iter().all(|&outer| end <= outer), "track {track}: {start} to {end}, {around:?}");
            around.push(end);
            assert!(around.len() <= if track == 0 { 2 } else { 1 }, "track {track}");
        }
    }
    refused(path, &run, &["trace.json exists", "--force"]);
}
