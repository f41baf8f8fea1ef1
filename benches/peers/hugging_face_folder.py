"""A Hugging Face folder of the F32 weights that a GGUF file of a Llama stands for: hugging_face_folder.py FILE FOLDER"""

import os
import re
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from prepare import write_json

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # a token type of GGUF: it stands for no text


def hugging_face_name(name):
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if layer and layer[2] in NAMES:
        return f"model.layers.{layer[1]}.{NAMES[layer[2]]}.weight"
    stem = name.removesuffix(".weight")
    if layer or stem not in NAMES or stem == name:
        sys.exit(f"hugging_face_folder.py: tensor {name} is none of a Llama's")
    return NAMES[stem] + ".weight"


def halves_of_pairs(weight, heads):
    """Rows of queries or keys [out, in] as Hugging Face has them. In a GGUF file of a Llama the two numbers that a
    rotary position turns stand side by side; there, they stand half a head apart."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[-1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, folder = map(Path, sys.argv[1:])
    reader = gguf.GGUFReader(source)

    def value(key, otherwise=None):
        found = reader.get_field(key)
        return found.contents() if found else otherwise

    if value("general.architecture") != "llama" or value("tokenizer.ggml.pre") != "smollm":
        sys.exit(f"hugging_face_folder.py: {source} is no Llama with SmolLM's tokenizer")
    heads, key_value_heads = value("llama.attention.head_count"), value("llama.attention.head_count_kv")
    tensors = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            weight = halves_of_pairs(weight, heads if "attn_q" in tensor.name else key_value_heads)
        tensors[hugging_face_name(tensor.name)] = np.ascontiguousarray(weight)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "unfinished", metadata={"format": "pt"})
    os.replace(folder / "unfinished", folder / "model.safetensors")

    tokens, types = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind == CONTROL]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": len(tokens),
            "max_position_embeddings": value("llama.context_length"),
            "hidden_size": value("llama.embedding_length"),
            "num_hidden_layers": value("llama.block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": key_value_heads,
            "intermediate_size": value("llama.feed_forward_length"),
            "hidden_act": "silu",
            "rms_norm_eps": value("llama.attention.layer_norm_rms_epsilon"),
            "rope_theta": value("llama.rope.freq_base", 10000.0),
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": "lm_head.weight" not in tensors,
            "torch_dtype": "float32",
            "bos_token_id": value("tokenizer.ggml.bos_token_id"),
            "eos_token_id": value("tokenizer.ggml.eos_token_id"),
        },
    )


if __name__ == "__main__":
    main()
