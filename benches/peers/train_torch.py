"""PyTorch's time for a training step of a small Llama: the figure that Diptych's own is held against.

    train_torch.py --threads 2

Eager mode, f32, AdamW (PyTorch's fused kernel), as good as plain PyTorch gets without compiling. Prints one line
of JSON; README.md says what the fields mean. The model is written here with torch.nn, with PyTorch's own kernels
for attention and norms, and is what `transformers` computes for the same configuration.
"""

import argparse
import json
import os
import resource
import statistics
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7, help="timed steps (default %(default)s)")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before, not timed (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    for name, size in dict(dim=288, layers=6, heads=6, hidden=768, vocabulary=32000, batch=8, time=256).items():
        parser.add_argument(f"--{name}", type=int, default=size, help="default %(default)s")
    a = parser.parse_args()
    if a.dim % (2 * a.heads):
        parser.error(f"--dim {a.dim} must be a multiple of twice --heads {a.heads}: rotary pairs within a head")
    return a


A = arguments()
# Both must be set before torch is loaded. Settings for another BLAS slow numpy down on some machines.
os.environ["OMP_NUM_THREADS"] = str(A.threads)
for variable in [v for v in os.environ if v.startswith("OPENBLAS_")]:
    del os.environ[variable]

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def rotate(x, cos, sin):
    """Rotary embedding of x [batch, head, time, head_dim], the pairs being the two halves."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm = nn.RMSNorm(A.dim, eps=1e-5)
        self.mlp_norm = nn.RMSNorm(A.dim, eps=1e-5)
        self.q, self.k, self.v, self.o = (linear(A.dim, A.dim) for _ in range(4))
        self.gate, self.up, self.down = linear(A.dim, A.hidden), linear(A.dim, A.hidden), linear(A.hidden, A.dim)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        h = self.attention_norm(x)
        q, k, v = (w(h).view(batch, length, A.heads, -1).transpose(1, 2) for w in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(x.shape))
        h = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(A.vocabulary, A.dim)
        self.layers = nn.ModuleList(Layer() for _ in range(A.layers))
        self.norm = nn.RMSNorm(A.dim, eps=1e-5)
        for p in self.parameters():
            if p.dim() >= 2:
                nn.init.normal_(p, std=0.02)
        head_dim = A.dim // A.heads
        frequency = 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
        angle = torch.outer(torch.arange(A.time), frequency)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids, targets):
        """Mean cross entropy in nats of targets [batch, time]; the head is the embedding table."""
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.cross_entropy(F.linear(self.norm(x), self.embedding.weight).flatten(0, 1), targets.flatten())


def optimizer(model):
    """AdamW; matrices decay, norms and the embedding table do not."""
    named = dict(model.named_parameters())
    decayed = [p for n, p in named.items() if p.dim() >= 2 and n != "embedding.weight"]
    kept = [p for n, p in named.items() if p.dim() < 2 or n == "embedding.weight"]
    groups = [dict(params=decayed, weight_decay=0.1), dict(params=kept, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)


def busy_seconds():
    """CPU seconds spent so far by the whole machine and by this process."""
    with open("/proc/stat") as f:
        ticks = [int(t) for t in f.readline().split()[1:9]]
    machine = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    own = resource.getrusage(resource.RUSAGE_SELF)
    return machine, own.ru_utime + own.ru_stime


def main():
    torch.set_num_threads(A.threads)
    torch.manual_seed(A.seed)
    model = Llama()
    update = optimizer(model)
    text = torch.randint(A.vocabulary, (A.batch, A.time + 1))
    ids, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    losses, milliseconds = [], []
    for step in range(A.warm_up + A.steps):
        if step == A.warm_up:
            began, (machine, own) = time.perf_counter(), busy_seconds()
        start = time.perf_counter()
        update.zero_grad(set_to_none=True)
        loss = model(ids, targets)
        loss.backward()
        update.step()
        losses.append(loss.item())
        milliseconds.append(1e3 * (time.perf_counter() - start))
    passed, (machine_after, own_after) = time.perf_counter() - began, busy_seconds()
    timed = milliseconds[A.warm_up :]
    median = statistics.median(timed)
    print(json.dumps({
        "peer": "torch-eager",
        "version": torch.__version__,
        "metric": "training step",
        "threads": A.threads,
        "median_ms": round(median, 1),
        "min_ms": round(min(timed), 1),
        "max_ms": round(max(timed), 1),
        "steps": len(timed),
        "tokens_per_second": round(A.batch * A.time / median * 1e3),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "others_cpu": round(max(0.0, (machine_after - machine - own_after + own) / passed), 2),
        "parameters": sum(p.numel() for p in model.parameters()),
        "shape": {n: getattr(A, n) for n in ("dim", "layers", "heads", "hidden", "vocabulary", "batch", "time")},
        "seed": A.seed,
        "losses": [round(l, 5) for l in losses],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
