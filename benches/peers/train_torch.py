"""PyTorch trains: the models written with torch.nn, with PyTorch's own kernels for attention, norms and AdamW."""

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from contender import contend


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def attention(q, k, v):
    """Causal attention over [batch, time, head, head_dim]; the result is [batch, time, dim]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def rotate(x, cos, sin):
    """Rotary embedding of x [batch, time, head, head_dim], the pairs being the two halves."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class LlamaLayer(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.head_dim = m["dim"] // m["heads"]
        key_value = self.head_dim * m["key_value_heads"]
        self.input_layernorm, self.post_attention_layernorm = (
            nn.RMSNorm(m["dim"], eps=m["norm_epsilon"]) for _ in "ab"
        )
        self.self_attn = nn.ModuleDict({
            "q_proj": linear(m["dim"], m["dim"]),
            "k_proj": linear(m["dim"], key_value),
            "v_proj": linear(m["dim"], key_value),
            "o_proj": linear(m["dim"], m["dim"]),
        })  # fmt: skip
        self.mlp = nn.ModuleDict({
            "gate_proj": linear(m["dim"], m["hidden"]),
            "up_proj": linear(m["dim"], m["hidden"]),
            "down_proj": linear(m["hidden"], m["dim"]),
        })  # fmt: skip

    def forward(self, x, cos, sin):
        h = self.input_layernorm(x)
        q, k, v = (self.self_attn[f"{name}_proj"](h).unflatten(-1, (-1, self.head_dim)) for name in "qkv")
        x = x + self.self_attn["o_proj"](attention(rotate(q, cos, sin), rotate(k, cos, sin), v))
        h = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))


class Llama(nn.Module):
    """Its parameters have Hugging Face's names below `model.`, and shapes."""

    def __init__(self, m, time):
        super().__init__()
        self.embed_tokens = nn.Embedding(m["vocabulary"], m["dim"])
        self.layers = nn.ModuleList(LlamaLayer(m) for _ in range(m["layers"]))
        self.norm = nn.RMSNorm(m["dim"], eps=m["norm_epsilon"])
        head_dim = m["dim"] // m["heads"]
        frequency = m["rope_theta"] ** (-torch.arange(0, head_dim, 2) / head_dim)
        angle = torch.outer(torch.arange(time), frequency)[:, None]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.linear(self.norm(x), self.embed_tokens.weight)


class Gpt2Layer(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.heads = m["heads"]
        self.ln_1, self.ln_2 = (nn.LayerNorm(m["dim"], eps=m["norm_epsilon"]) for _ in "ab")
        self.attn = nn.ModuleDict({
            "c_attn": nn.Linear(m["dim"], 3 * m["dim"]),
            "c_proj": nn.Linear(m["dim"], m["dim"]),
        })  # fmt: skip
        self.mlp = nn.ModuleDict({
            "c_fc": nn.Linear(m["dim"], m["hidden"]),
            "c_proj": nn.Linear(m["hidden"], m["dim"]),
        })  # fmt: skip

    def forward(self, x):
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in self.attn["c_attn"](self.ln_1(x)).chunk(3, dim=-1))
        x = x + self.attn["c_proj"](attention(q, k, v))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    """Its parameters have Hugging Face's names below `transformer.`; weights are [out, in], as PyTorch has them."""

    def __init__(self, m, time):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(m["vocabulary"], m["dim"]), nn.Embedding(m["context"], m["dim"])
        self.h = nn.ModuleList(Gpt2Layer(m) for _ in range(m["layers"]))
        self.ln_f = nn.LayerNorm(m["dim"], eps=m["norm_epsilon"])
        self.register_buffer("positions", torch.arange(time), persistent=False)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(self.positions)
        for layer in self.h:
            x = layer(x)
        return F.linear(self.ln_f(x), self.wte.weight)


def load_model(job):
    m = job["model"]
    model = (Gpt2 if m["family"] == "gpt2" else Llama)(m, job["time"])
    tensors = {}
    for name, tensor in load_file(job["folder"] + "/model.safetensors").items():
        stored_in_out = ".c_" in name and tensor.dim() == 2
        tensors[name.split(".", 1)[1]] = tensor.T.contiguous() if stored_in_out else tensor
    model.load_state_dict(tensors)
    return model


def adamw(model, settings):
    """Matrices decay; norms, biases and embedding tables do not."""
    tables = {table.weight for table in model.modules() if isinstance(table, nn.Embedding)}
    decayed = [p for p in model.parameters() if p.dim() >= 2 and p not in tables]
    kept = [p for p in model.parameters() if p.dim() < 2 or p in tables]
    decay = settings["weight_decay"]
    groups = [dict(params=decayed, weight_decay=decay), dict(params=kept, weight_decay=0.0)]
    betas = (settings["beta1"], settings["beta2"])
    return torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=betas, eps=settings["epsilon"], fused=True)


class Trainer:
    version = torch.__version__

    def __init__(self, job):
        torch.set_num_threads(job["threads"])
        model = load_model(job)
        tokens = torch.tensor(job["tokens"])
        self.ids, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()
        self.optimizer = adamw(model, job["optimizer"])

        def loss(ids, targets):
            return F.cross_entropy(model(ids).flatten(0, 1), targets)

        self.loss = torch.compile(loss) if job["compile"] else loss

    def step(self):
        """Forward, backward, the update of all parameters, and the loss before it, in nats a token."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.ids, self.targets)
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}


if __name__ == "__main__":
    contend(Trainer)
