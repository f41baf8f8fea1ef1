//! Configurations and checkpoints that do not fit: the message names the field,
//! the tensor or the file, and nothing is written.

use diptych_models::hugging_face::{Checkpoint, export};
use diptych_models::{Architecture, Registry};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn preset(name: &str) -> (String, Value) {
    let registry = Registry::zoo();
    let architecture = registry.preset(name).unwrap();
    (architecture.name().to_owned(), architecture.describe())
}

/// The message when a field of a preset has this value, or (for null) is gone.
fn with(name: &str, field: &str, value: Value) -> String {
    let (family, mut config) = preset(name);
    match value {
        Value::Null => config.as_object_mut().unwrap().remove(field),
        value => config.as_object_mut().unwrap().insert(field.to_owned(), value),
    };
    match Registry::zoo().architecture(&family, &config) {
        Ok(_) => panic!("{name} with another `{field}` is accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn fields_that_do_not_fit_are_named() {
    assert_eq!(
        with("llama-tiny", "key_value_heads", json!(3)),
        "configuration of `llama`: `key_value_heads` (3) does not divide `heads` (4); \
         make the latter a multiple of it"
    );
    assert!(with("llama-tiny", "head_dim", json!(5)).contains("`head_dim` is 5; it must be even"));
    assert!(with("llama-tiny", "layers", json!(0)).contains("`layers` is 0; it must be at least 1"));
    assert!(with("llama-tiny", "layers", json!(-2)).contains("invalid value: integer `-2`"));
    assert!(with("llama-tiny", "norm_epsilon", json!(0.0)).contains("`norm_epsilon` is 0"));
    assert!(with("gpt2-tiny", "heads", json!(5)).contains("`heads` (5) does not divide `embed` (24)"));
    assert!(with("mla-tiny", "rotary_dim", json!(3)).contains("`rotary_dim` is 3; it must be even"));
    assert!(with("moe-tiny", "chosen", json!(6)).contains("`chosen` is 6, but the number of experts in"));
    assert!(with("moe-tiny", "groups", json!(2)).contains("does not divide `experts`"));
    assert!(with("moe-latent-tiny", "dense_layers", json!(3)).contains("give at most that"));
    assert!(with("moe-latent-tiny", "window", json!(8)).contains("is an option of grouped queries"));
    assert!(
        with("moe-tiny", "bias_rate", json!(0.1))
            .contains("is the rate of the `selection_bias`, which is off")
    );
    assert!(
        with("moe-latent-tiny", "bias_rate", json!(-0.1))
            .contains("`bias_rate` is -0.1; it must be at least 0")
    );
    assert!(
        with("moe-tiny", "balance_loss", json!(-1.0)).contains("`balance_loss` is -1; it must be at least 0")
    );
    for name in ["gpt2-tiny", "llama-tiny", "mla-tiny", "moe-tiny", "hybrid-tiny", "mamba2-tiny"] {
        assert!(with(name, "layres", json!(2)).contains("unknown field `layres`, expected one of `vocab`"));
        assert!(with(name, "vocab", Value::Null).contains("missing field `vocab`"));
        assert!(
            with(name, "dtype", json!("f64")).contains("unknown variant `f64`, expected `f32` or `bf16`")
        );
    }
    let rope = json!({ "theta": 10000.0, "scaling": { "kind": "linear", "factor": 0.5 } });
    assert!(with("llama-tiny", "rope", rope).contains("`rope.scaling.factor` is 0.5; it must be at least 1"));
    let unknown = Registry::zoo().architecture("lama", &json!({})).err().unwrap().to_string();
    assert_eq!(unknown, "no family `lama`; there are: gpt2, hybrid, llama, mla, moe");
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The message when the configuration of a fixture is changed.
fn changed(name: &str, field: &str, value: Value) -> String {
    let mut config = read_json(&fixture(name).join("config.json"));
    match value {
        Value::Null => config.as_object_mut().unwrap().remove(field),
        value => config.as_object_mut().unwrap().insert(field.to_owned(), value),
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(fixture(name).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    refused(folder.path())
}

fn refused(folder: &Path) -> String {
    match Checkpoint::open(folder, &Registry::zoo()) {
        Ok(_) => panic!("{} is accepted", folder.display()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn hugging_face_configurations_that_ask_for_more_are_refused() {
    assert!(changed("llama", "hidden_size", Value::Null).contains("missing field `hidden_size`"));
    assert!(
        changed("llama", "quantization_config", json!({})).contains("unknown field `quantization_config`")
    );
    assert!(
        changed("llama", "hidden_act", json!("gelu"))
            .contains("`hidden_act` is \"gelu\"; supported: \"silu\"")
    );
    let rope = json!({ "rope_type": "longrope", "rope_theta": 10000.0 });
    assert!(
        changed("llama", "rope_parameters", rope).contains("`rope_type` is `longrope`; supported: default")
    );
    assert!(changed("qwen2", "use_sliding_window", json!(true)).contains("`use_sliding_window` is true"));
    let scoring = changed("deepseek_v3_experts", "scoring_func", json!("softmax"));
    assert!(scoring.contains("`scoring_func` is \"softmax\"; supported: \"sigmoid\""), "{scoring}");
    assert!(changed("qwen3_moe", "mlp_only_layers", json!([0])).contains("`mlp_only_layers` is [0]"));
    assert!(
        changed("gpt2", "model_type", json!("bert"))
            .contains("no model_type `bert`; there are: gpt2, mamba2, llama")
    );
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let wider = changed("llama", "intermediate_size", json!(84));
    assert!(wider.contains("tensor `model.layers.0.mlp.gate_proj.weight` has shape [80, 48]"), "{wider}");
    assert!(wider.contains("config.json asks for [84, 48]"), "{wider}");
    let deeper = changed("llama", "num_hidden_layers", json!(3));
    assert!(deeper.contains("no tensor `model.layers.2."), "{deeper}");
    let tied = changed("llama", "tie_word_embeddings", json!(true));
    assert!(tied.contains("unknown tensor `lm_head.weight`"), "{tied}");
}

/// A copy of a fixture whose weights have been changed.
fn damaged(damage: impl FnOnce(&mut Vec<u8>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("llama").join("config.json"), folder.path().join("config.json")).unwrap();
    let mut bytes = std::fs::read(fixture("llama").join("model.safetensors")).unwrap();
    damage(&mut bytes);
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    refused(folder.path())
}

#[test]
fn damaged_files_are_refused() {
    let truncated = damaged(|bytes| bytes.truncate(bytes.len() - 5));
    assert!(truncated.contains("model.safetensors: truncated"), "{truncated}");
    let empty = damaged(|bytes| bytes.clear());
    assert!(empty.contains("not a safetensors file"), "{empty}");
    let overlapping = damaged(|bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        header["model.norm.weight"]["data_offsets"] = json!([0, 192]);
        let header = header.to_string();
        let data = bytes.split_off(8 + length);
        *bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    });
    assert!(overlapping.contains("overlaps another or leaves a gap"), "{overlapping}");
}

#[test]
fn shards_must_be_there_and_in_the_folder() {
    let copy = |skipped: &str| {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixture("llama_sharded")).unwrap() {
            let name = entry.unwrap().file_name();
            if name != *skipped {
                std::fs::copy(fixture("llama_sharded").join(&name), folder.path().join(&name)).unwrap();
            }
        }
        folder
    };
    let missing = refused(copy("model-00002-of-00002.safetensors").path());
    assert!(missing.contains("model-00002-of-00002.safetensors: No such file"), "{missing}");
    let folder = copy("");
    let index = folder.path().join("model.safetensors.index.json");
    let mut json = read_json(&index);
    json["weight_map"]["lm_head.weight"] = json!("../elsewhere.safetensors");
    std::fs::write(&index, json.to_string()).unwrap();
    let outside = refused(folder.path());
    assert!(outside.contains("it must be the name of a file in the same folder"), "{outside}");
    let none = refused(&folder.path().join("nothing"));
    assert!(none.contains("config.json: No such file"), "{none}");
}

#[test]
fn a_failed_export_leaves_what_was_there() {
    let checkpoint = Checkpoint::open(&fixture("llama"), &Registry::zoo()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let load = |param: &str| checkpoint.load_param(param);
    export(folder.path(), checkpoint.architecture(), load).unwrap();
    let before = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let short = export(folder.path(), checkpoint.architecture(), |param| {
        load(param).map(|values| values[1..].to_vec())
    });
    let short = short.unwrap_err().to_string();
    assert!(short.contains("`embedding` has 5376 values, but 5375 were given"), "{short}");
    // A folder in the file's place stands for any failure to write.
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    std::fs::create_dir(folder.path().join("config.json")).unwrap();
    let blocked = export(folder.path(), checkpoint.architecture(), load).unwrap_err().to_string();
    assert!(blocked.contains("config.json: cannot be written"), "{blocked}");
    assert_eq!(before, std::fs::read(folder.path().join("model.safetensors")).unwrap());
    let both = json!({ "window": 4, "query_key_norm": true });
    let (family, mut config) = preset("llama-tiny");
    config.as_object_mut().unwrap().extend(both.as_object().unwrap().clone());
    let mixed: Box<dyn Architecture> = Registry::zoo().architecture(&family, &config).unwrap();
    let error = export(folder.path(), &*mixed, |_| Ok(Vec::new())).unwrap_err().to_string();
    assert!(error.contains("transformers has no model with these options"), "{error}");
}

/// A loss over all layers at once, which is 2 where the load is even, and one for each layer, which is 1 there.
#[test]
fn the_load_balance_loss_goes_to_hugging_face_and_back() {
    for name in ["mixtral", "qwen3_moe"] {
        let mut config = read_json(&fixture(name).join("config.json"));
        let fields = config.as_object_mut().unwrap();
        fields.insert("num_hidden_layers".into(), json!(4));
        fields.insert("num_experts_per_tok".into(), json!(2));
        fields.insert("router_aux_loss_coef".into(), json!(0.5));
        for (added, expected) in [(false, 0.0), (true, 0.25)] {
            config["output_router_logits"] = json!(added);
            let architecture = Registry::zoo().from_hugging_face(&config).unwrap();
            assert_eq!(architecture.describe()["balance_loss"], json!(expected), "{name}");
            let exported = architecture.hugging_face().unwrap().config;
            assert_eq!(exported["output_router_logits"], json!(added), "{name}");
            let coefficient = exported.get("router_aux_loss_coef");
            assert_eq!(coefficient, added.then(|| json!(0.5)).as_ref(), "{name}");
        }
    }
}
