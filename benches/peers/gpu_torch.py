"""Times PyTorch on a GPU at the products and attention that Diptych's kernels do, for benches/gpu.sh.

    gpu_torch.py DEVICE SHAPES.json TIMES.json

SHAPES is what `diptych bench --kernels --shapes` writes: a list of objects with a `key`. TIMES gets `about`, what was
timed with or why nothing was, and `seconds` by key. Each is the median of ROUNDS, by events; between rounds
memory is written over that is larger than the caches, so that operands come from memory. What does not run, for want of
memory or of a kernel, has no time, and is told. The exit code is 1 where nothing was timed.
"""

import json
import statistics
import sys

ROUNDS = 20
FLUSH_BYTES = 256 << 20


def product(torch, device, shape):
    """A call that multiplies matrices of a shape."""
    dtype = getattr(torch, shape["dtype"])
    batch, rows, columns, depth = (shape[name] for name in ("batch", "rows", "columns", "depth"))
    lead = () if batch == 1 else (batch,)
    left = torch.randn((*lead, rows, depth), device=device, dtype=dtype)
    right = torch.randn((*lead, depth, columns), device=device, dtype=dtype)
    out = torch.empty((*lead, rows, columns), device=device, dtype=dtype)
    return lambda: torch.matmul(left, right, out=out)


def attention(torch, device, shape):
    """A call that computes attention of a shape, or its gradients alone."""
    from torch.nn.attention.bias import causal_lower_right
    from torch.nn.functional import scaled_dot_product_attention

    dtype = getattr(torch, shape["dtype"])
    batch, queries, keys = shape["batch"], shape["queries"], shape["keys"]

    def random(heads, length, width):
        of_gradient = shape["backward"]
        return torch.randn((batch, heads, length, width), device=device, dtype=dtype, requires_grad=of_gradient)

    q = random(shape["heads"], queries, shape["key_dim"])
    k = random(shape["key_value_heads"], keys, shape["key_dim"])
    v = random(shape["key_value_heads"], keys, shape["value_dim"])
    options = {"enable_gqa": shape["heads"] != shape["key_value_heads"]}
    if queries == keys:
        options["is_causal"] = True
    elif queries > 1:
        options["attn_mask"] = causal_lower_right(queries, keys)

    def forward():
        return scaled_dot_product_attention(q, k, v, **options)

    if not shape["backward"]:
        return forward
    out = forward()
    gradient = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)


def median_seconds(torch, call, flush):
    """The median of the rounds' times, in seconds."""
    for _ in range(3):
        call()
    times = []
    for _ in range(ROUNDS):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def reason_to_skip(device):
    """Why nothing can be timed, or None."""
    try:
        import torch
    except ImportError as error:
        return f"{sys.executable} has no PyTorch ({error}); benches/peers/requirements-gpu.txt pins its version"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} of {sys.executable} finds no CUDA"
    try:
        torch.zeros(1, device=device)
    except Exception as error:  # whatever PyTorch makes of a device that is not there
        return f"PyTorch {torch.__version__} cannot use {device}: {error}"
    return None


def write(path, times):
    """Writes what was found."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(times, file, indent=1)


def main():
    """Times all shapes."""
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    device, shapes_path, times_path = sys.argv[1:]
    reason = reason_to_skip(device)
    if reason:
        print(f"gpu_torch.py: PyTorch is not timed: {reason}", file=sys.stderr)
        write(times_path, {"about": f"Not timed: {reason}.", "seconds": {}})
        return 1
    import torch

    with open(shapes_path, encoding="utf-8") as file:
        shapes = json.load(file)
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    makers = {"product": product, "attention": attention}
    seconds = {}
    for shape in shapes:
        try:
            seconds[shape["key"]] = median_seconds(torch, makers[shape["kind"]](torch, device, shape), flush)
        except RuntimeError as error:
            print(f"gpu_torch.py: {shape['key']}: {str(error).splitlines()[0]}", file=sys.stderr)
        torch.cuda.empty_cache()
    name = torch.cuda.get_device_name(device)
    about = f"PyTorch {torch.__version__} with CUDA {torch.version.cuda} on {name}, median of {ROUNDS}."
    write(times_path, {"about": about, "seconds": seconds})
    return 0 if seconds else 1


if __name__ == "__main__":
    sys.exit(main())
