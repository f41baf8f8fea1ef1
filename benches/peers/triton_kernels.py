"""Compiles Triton's kernels for an H100, with no GPU, and prints what their machine code is like, to be held beside that of
`diptych compile --target sm_90a`: registers, shared memory, and the tensor-core instructions of the main loop.

    python3 -m venv VENV && VENV/bin/pip install triton==3.9.0
    cargo build --release -p diptych-nvrtc --example main_loops
    VENV/bin/python benches/peers/triton_kernels.py FOLDER

FOLDER gets a .cubin for each kernel. Products are m x n x k with k along memory or across it, as a forward pass, a
gradient of an activation and one of a weight have them; attention is causal, with heads of 128 elements.
"""

import os
import struct
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

MAIN_LOOPS = Path(__file__).resolve().parents[2] / "target/release/examples/main_loops"


@triton.jit
def product(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, A_ALONG_K: tl.constexpr, B_ALONG_K: tl.constexpr):
    if A_ALONG_K:
        of_a = tl.make_tensor_descriptor(a, [m, k], [k, 1], [BM, BK])
    else:
        of_a = tl.make_tensor_descriptor(a, [k, m], [m, 1], [BK, BM])
    if B_ALONG_K:
        of_b = tl.make_tensor_descriptor(b, [n, k], [k, 1], [BN, BK])
    else:
        of_b = tl.make_tensor_descriptor(b, [k, n], [n, 1], [BK, BN])
    of_c = tl.make_tensor_descriptor(c, [m, n], [n, 1], [BM, BN])
    columns = tl.cdiv(n, BN)
    for block in tl.range(tl.program_id(0), tl.cdiv(m, BM) * columns, tl.num_programs(0)):
        row, column = block // columns * BM, block % columns * BN
        total = tl.zeros((BM, BN), dtype=tl.float32)
        for at in range(0, k, BK):
            if A_ALONG_K:
                left = of_a.load([row, at])
            else:
                left = of_a.load([at, row]).T
            if B_ALONG_K:
                right = of_b.load([column, at]).T
            else:
                right = of_b.load([at, column])
            total = tl.dot(left, right, total)
        of_c.store([row, column], total.to(tl.bfloat16))


@triton.jit
def attention(q, k, v, o, length, scale, HEAD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    head, first = tl.program_id(1), tl.program_id(0) * BM
    start = head * length
    of_q = tl.make_tensor_descriptor(q, [start + length, HEAD], [HEAD, 1], [BM, HEAD])
    of_k = tl.make_tensor_descriptor(k, [start + length, HEAD], [HEAD, 1], [BN, HEAD])
    of_v = tl.make_tensor_descriptor(v, [start + length, HEAD], [HEAD, 1], [BN, HEAD])
    of_o = tl.make_tensor_descriptor(o, [start + length, HEAD], [HEAD, 1], [BM, HEAD])
    queries = of_q.load([start + first, 0])
    most = tl.full((BM,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    result = tl.zeros((BM, HEAD), dtype=tl.float32)
    rows = first + tl.arange(0, BM)
    for at in range(0, first + BM, BN):
        scores = tl.dot(queries, of_k.load([start + at, 0]).T) * scale
        scores = tl.where(rows[:, None] >= at + tl.arange(0, BN)[None, :], scores, float("-inf"))
        larger = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp2(scores - larger[:, None])
        factor = tl.exp2(most - larger)
        total = total * factor + tl.sum(weights, 1)
        result = tl.dot(weights.to(tl.bfloat16), of_v.load([start + at, 0]), result * factor[:, None])
        most = larger
    of_o.store([start + first, 0], (result / total[:, None]).to(tl.bfloat16))


def compiled(kernel, types, constants, warps, stages):
    signature = types | {name: "constexpr" for name in constants}
    aligned = {(at,): [["tt.divisibility", 16]] for at, kind in enumerate(types.values()) if kind in ("*bf16", "i32")}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})


def registers(cubin):
    """Registers of a thread, as the section `.nv.info` says: records of a format, an attribute and, for format 4, a size."""
    SIZED, REGISTERS = 4, 0x2F
    at, size, count, names = (*struct.unpack_from("<Q", cubin, 40), *struct.unpack_from("<HHH", cubin, 58))
    sections = [struct.unpack_from("<IIQQQQII", cubin, at + index * size) for index in range(count)]
    text = sections[names][4]
    name = lambda section: cubin[text + section[0] : cubin.index(b"\0", text + section[0])]
    start, length = next(section[4:6] for section in sections if name(section) == b".nv.info")
    found, end = [], start + length
    while start < end:
        form, attribute, word = struct.unpack_from("<BBH", cubin, start)
        if (form, attribute) == (SIZED, REGISTERS):
            found.append(struct.unpack_from("<II", cubin, start + 4)[1])
        start += 4 + (word if form == SIZED else 0)
    return max(found)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    if not MAIN_LOOPS.exists():
        sys.exit(f"{MAIN_LOOPS} is missing: cargo build --release -p diptych-nvrtc --example main_loops")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    pointers = {"a": "*bf16", "b": "*bf16", "c": "*bf16", "m": "i32", "n": "i32", "k": "i32"}
    kernels = {}
    for name, along in [("forward", (True, False)), ("activation", (True, True)), ("weight", (False, False))]:
        for columns, stages in [(128, 4), (256, 3)]:
            constants = {"BM": 128, "BN": columns, "BK": 64, "A_ALONG_K": along[0], "B_ALONG_K": along[1]}
            kernels[f"product-{name}-128x{columns}x64"] = (product, pointers, constants, 8, stages)
    types = {"q": "*bf16", "k": "*bf16", "v": "*bf16", "o": "*bf16", "length": "i32", "scale": "fp32"}
    for rows in (64, 128):
        constants = {"HEAD": 128, "BM": rows, "BN": 64}
        kernels[f"attention-{rows}x64"] = (attention, types, constants, rows // 16, 3)
    print("kernel\twarps\tregisters\tshared\tinstructions\ttensor_core\tshare\topcodes")
    for name, arguments in kernels.items():
        kernel = compiled(*arguments)
        file = folder / f"{name}.cubin"
        file.write_bytes(kernel.asm["cubin"])
        loops = subprocess.run([MAIN_LOOPS, file], check=True, capture_output=True, text=True).stdout.splitlines()
        for line in loops[1:]:
            metadata = kernel.metadata
            own = [name, metadata.num_warps, registers(kernel.asm["cubin"]), metadata.shared]
            print(*own, *line.split("\t")[2:], sep="\t")


if __name__ == "__main__":
    main()
