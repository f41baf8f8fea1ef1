"""Writes what all contenders start from, where it is missing: first weights of the models that are trained, as
Hugging Face folders, and the ids of an English text for those that are served. Run by compare.py."""

import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from works import HOME, MODEL, MODELS, NORM_EPSILON, ROPE_THETA

TEXT = Path(__file__).resolve().parents[2] / "LICENSE-APACHE"
HEADING = "1. Definitions."
PROMPT_IDS = 6144


def llama_shapes(m):
    """Tensors of a Llama by Hugging Face's names; weights are [out, in]."""
    key_value = m.dim // m.heads * m.key_value_heads
    shapes = {"model.embed_tokens.weight": (m.vocabulary, m.dim), "model.norm.weight": (m.dim,)}
    for layer in range(m.layers):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (m.dim,),
                "self_attn.q_proj": (m.dim, m.dim),
                "self_attn.k_proj": (key_value, m.dim),
                "self_attn.v_proj": (key_value, m.dim),
                "self_attn.o_proj": (m.dim, m.dim),
                "post_attention_layernorm": (m.dim,),
                "mlp.gate_proj": (m.hidden, m.dim),
                "mlp.up_proj": (m.hidden, m.dim),
                "mlp.down_proj": (m.dim, m.hidden),
            }.items()
        }
    return shapes


def gpt2_shapes(m):
    """Tensors of a GPT-2 by Hugging Face's names; weights are [in, out], and query, key and value are one."""
    shapes = {"transformer.wte.weight": (m.vocabulary, m.dim), "transformer.wpe.weight": (m.context, m.dim)}
    maps = {
        "attn.c_attn": (m.dim, 3 * m.dim),
        "attn.c_proj": (m.dim, m.dim),
        "mlp.c_fc": (m.dim, m.hidden),
        "mlp.c_proj": (m.hidden, m.dim),
        "ln_1": (m.dim,),
        "ln_2": (m.dim,),
    }
    for layer in range(m.layers):
        for name, shape in maps.items():
            shapes[f"transformer.h.{layer}.{name}.weight"] = shape
            shapes[f"transformer.h.{layer}.{name}.bias"] = shape[-1:]
    return shapes | {"transformer.ln_f.weight": (m.dim,), "transformer.ln_f.bias": (m.dim,)}


def config(m):
    """The model's configuration as transformers writes it."""
    common = {"model_type": m.family, "vocab_size": m.vocabulary, "tie_word_embeddings": True, "torch_dtype": "float32"}
    if m.family == "gpt2":
        return common | {
            "architectures": ["GPT2LMHeadModel"],
            "n_positions": m.context,
            "n_embd": m.dim,
            "n_layer": m.layers,
            "n_head": m.heads,
            "n_inner": m.hidden,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": NORM_EPSILON,
        }
    return common | {
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": m.context,
        "hidden_size": m.dim,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads,
        "num_key_value_heads": m.key_value_heads,
        "intermediate_size": m.hidden,
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": ROPE_THETA,
        "attention_bias": False,
        "mlp_bias": False,
    }


def write_model(m):
    """Matrices and tables are normal with deviation 0.02, norms 1, biases 0."""
    draw = np.random.default_rng(0)
    tensors = {}
    for name, shape in (gpt2_shapes if m.family == "gpt2" else llama_shapes)(m).items():
        if len(shape) == 2:
            tensors[name] = draw.standard_normal(shape, np.float32) * np.float32(0.02)
        else:
            tensors[name] = (np.zeros if name.endswith("bias") else np.ones)(shape, np.float32)
    m.folder.mkdir(parents=True, exist_ok=True)
    unfinished = m.folder / "unfinished"
    save_file(tensors, unfinished)
    os.replace(unfinished, m.folder / "model.safetensors")
    write_json(m.folder / "config.json", config(m))


def write_prompt(path):
    """Ids of the text behind its heading, over and over."""
    tokenizer = Tokenizer.from_file(str(HOME / "models" / MODEL / "tokenizer.json"))
    ids = tokenizer.encode(TEXT.read_text().partition(HEADING)[2], add_special_tokens=False).ids
    write_json(path, (ids * (PROMPT_IDS // len(ids) + 1))[:PROMPT_IDS])


def write_json(path, value):
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value))
    os.replace(unfinished, path)


def main():
    for m in MODELS:
        if not (m.folder / "config.json").exists():
            write_model(m)
    prompt = HOME / "works" / "prompt.json"
    if not prompt.exists() and (HOME / "models" / MODEL).exists():
        write_prompt(prompt)


if __name__ == "__main__":
    main()
