"""The perplexity of texts in each format of weights, with Diptych and with llama.cpp's tool, and in Q8_0 with OpenVINO: in
windows of 512 tokens, of which the second half counts. Needs what setup.sh installs. Exits with 1 where Diptych and
llama.cpp differ by more than 0.5%.

  perplexity.py [TEXT ...]     without any, docs/decisions.md, and the GPL where Debian keeps it
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from works import HOME, MODEL

FOLDER = HOME / "models"

ROOT = Path(__file__).resolve().parents[2]
WINDOW = 512
WITHIN = 0.005
# 576 columns are no whole number of blocks of 256: of this model, only `ffn_down` can be in them.
IN_LARGE_BLOCKS = {"Q4_K": "ffn_down=q4_K", "Q6_K": "ffn_down=q6_K"}
FORMATS = ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0", *IN_LARGE_BLOCKS]


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"perplexity.py: {command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def find(pattern, text):
    found = re.search(pattern, text)
    if not found:
        sys.exit(f"perplexity.py: no perplexity in:\n{text}")
    return float(found.group(1))


def model(form):
    path = FOLDER / f"{MODEL}.{form}.gguf"
    if not path.exists() and form in IN_LARGE_BLOCKS:
        unfinished = path.with_suffix(".unfinished")
        source, tensors = FOLDER / f"{MODEL}.F32.gguf", IN_LARGE_BLOCKS[form]
        run(HOME / "llama.cpp/bin/llama-quantize", "--tensor-type", tensors, source, unfinished, "Q8_0")
        unfinished.rename(path)
    return path


def openvino(path, text):
    """OpenVINO's perplexity of a text in 8 bits, where it is installed."""
    python = HOME / "venv-openvino/bin/python"
    if not python.exists():
        return "–"
    ids = run(HOME / "llama.cpp/bin/llama-tokenize", "-m", path, "-f", text, "--ids", "--no-bos", "--log-disable")
    found = text.with_suffix(".ids")
    found.write_text(json.dumps(json.loads(re.search(r"\[[\d, ]*\]", ids).group())))
    script = ROOT / "benches/peers/perplexity_openvino.py"
    perplexity = find(r"PPL = ([\d.]+)", run(python, script, path, found, WINDOW))
    return f"{perplexity:.4f}"


def texts():
    named = [Path(name) for name in sys.argv[1:]]
    if named:
        return [(path.name, path.read_text()) for path in named]
    page = ROOT / "docs/decisions.md"
    found = [(page.name, page.read_text())]
    license = Path("/usr/share/common-licenses/GPL-3")
    return found + [("GPL-3", license.read_text())] if license.exists() else found


def main():
    run("cargo", "build", "--release", "--quiet", "--bin", "diptych")
    apart = 0
    print("| text | format | Diptych | llama.cpp | ratio | OpenVINO |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts():
            path = Path(folder) / "text.txt"
            path.write_text(text)
            for form in FORMATS:
                weights = "f32" if form == "F32" else "stored"
                arguments = ["--gguf", model(form), "--weights", weights, "--data", path, "--window", WINDOW]
                score = run(ROOT / "target/release/diptych", "score", "--second-half", *arguments)
                ours = find(r"perplexity\s+([\d.]+)", score)
                tool = HOME / "llama.cpp/bin/llama-perplexity"
                theirs = find(r"PPL = ([\d.]+)", run(tool, "-m", model(form), "-f", path, "-c", WINDOW, "-t", 2))
                apart = max(apart, abs(ours / theirs - 1))
                other = openvino(model(form), path) if form == "Q8_0" else ""
                print(f"| {name} | {form} | {ours:.4f} | {theirs:.4f} | {ours / theirs:.4f} | {other} |", flush=True)
    print(f"\nat most {apart:.2%} apart")
    sys.exit(apart > WITHIN)


if __name__ == "__main__":
    main()
