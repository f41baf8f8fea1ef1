"""OpenVINO's perplexity of a text, for perplexity.py: `perplexity_openvino.py MODEL.gguf IDS.json WINDOW`, with the Python of
setup.sh's venv-openvino. The pipeline that is timed gives no logits, so it writes down the model that it makes of the GGUF file,
and that model is run, with the same default roundings of activations and cache."""

import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai


def converted(gguf, folder):
    """The GGUF file as OpenVINO's model, compiled."""
    copy = Path(folder) / gguf.name
    shutil.copy(gguf, copy)
    openvino_genai.LLMPipeline(str(copy), "CPU", enable_save_ov_model=True)
    return ov.Core().compile_model(str(Path(folder) / "openvino_model.xml"), "CPU", {"PERFORMANCE_HINT": "LATENCY"})


def perplexity(model, ids, window):
    request = model.create_infer_request()
    names = {name for port in model.inputs for name in port.names}
    loss, count = 0.0, 0
    for start in range(0, len(ids) - window + 1, window):
        text = np.array([ids[start : start + window]], np.int64)
        given = {
            "input_ids": text,
            "attention_mask": np.ones_like(text),
            "position_ids": np.arange(window, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        request.reset_state()
        logits = request.infer({name: value for name, value in given.items() if name in names})["logits"][0]
        # The second half counts: each position tells of the next token.
        seen = logits[window // 2 : window - 1].astype(np.float64)
        seen -= seen.max(axis=1, keepdims=True)
        wanted = text[0, window // 2 + 1 :]
        loss += (np.log(np.exp(seen).sum(axis=1)) - seen[np.arange(len(wanted)), wanted]).sum()
        count += len(wanted)
    return math.exp(loss / count)


def main():
    gguf, ids, window = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        print(f"PPL = {perplexity(converted(gguf, folder), ids, window):.4f}")


if __name__ == "__main__":
    main()
