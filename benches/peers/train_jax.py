"""JAX trains: the whole step is one compiled function that gives its buffers back. Its threads follow the cores that
the process may use."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from contender import contend


def rotate(x, cos, sin):
    """Rotary embedding of x [batch, time, head, head_dim], the pairs being the two halves."""
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)


def attention(q, k, v):
    """Causal attention over [batch, time, head, head_dim]; the result is [batch, time, dim]."""
    return jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(*q.shape[:2], -1)


def split_heads(x, head_dim):
    return x.reshape(*x.shape[:2], -1, head_dim)


def llama(m, time):
    """Logits [batch, time, vocabulary] as a function of parameters by Hugging Face's names, and of ids."""
    head_dim = m["dim"] // m["heads"]
    frequency = m["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
    angle = np.outer(np.arange(time), frequency)[:, None]
    cos, sin = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)

    def norm(x, weight):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + m["norm_epsilon"]) * weight

    def logits(p, ids):
        def weight(layer, name):
            return p[f"model.layers.{layer}.{name}.weight"]

        x = p["model.embed_tokens.weight"][ids]
        for layer in range(m["layers"]):
            w = partial(weight, layer)
            h = norm(x, w("input_layernorm"))
            q, k, v = (split_heads(h @ w(f"self_attn.{name}_proj").T, head_dim) for name in "qkv")
            x = x + attention(rotate(q, cos, sin), rotate(k, cos, sin), v) @ w("self_attn.o_proj").T
            h = norm(x, w("post_attention_layernorm"))
            h = jax.nn.silu(h @ w("mlp.gate_proj").T) * (h @ w("mlp.up_proj").T)
            x = x + h @ w("mlp.down_proj").T
        return norm(x, p["model.norm.weight"]) @ p["model.embed_tokens.weight"].T

    return logits


def gpt2(m, time):
    """As `llama`."""

    def logits(p, ids):
        def norm(x, name):
            x = x - x.mean(-1, keepdims=True)
            x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + m["norm_epsilon"])
            return x * p[f"{name}.weight"] + p[f"{name}.bias"]

        def linear(x, name):
            return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

        table = p["transformer.wte.weight"]
        x = table[ids] + p["transformer.wpe.weight"][:time]
        for layer in range(m["layers"]):
            at = f"transformer.h.{layer}"
            joined = jnp.split(linear(norm(x, f"{at}.ln_1"), f"{at}.attn.c_attn"), 3, axis=-1)
            x = x + linear(attention(*(split_heads(y, m["dim"] // m["heads"]) for y in joined)), f"{at}.attn.c_proj")
            h = jax.nn.gelu(linear(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc"), approximate=True)
            x = x + linear(h, f"{at}.mlp.c_proj")
        return norm(x, "transformer.ln_f") @ table.T

    return logits


def decays(name, tensor):
    """Matrices decay; norms, biases and embedding tables do not."""
    return tensor.ndim == 2 and not name.endswith(("embed_tokens.weight", "wte.weight", "wpe.weight"))


def train_step(logits, settings):
    """AdamW's step: new parameters, moments and count, and the loss before it, in nats a token."""
    beta1, beta2 = settings["beta1"], settings["beta2"]
    rate, decay = settings["learning_rate"], settings["weight_decay"]

    def loss(p, ids, targets):
        found = logits(p, ids)
        right = jnp.take_along_axis(found, targets[..., None], -1)[..., 0]
        return (jax.nn.logsumexp(found, -1) - right).mean()

    def step(p, mean, variance, count, ids, targets):
        value, gradient = jax.value_and_grad(loss)(p, ids, targets)
        count = count + 1
        of_mean, of_variance = 1 - beta1**count, 1 - beta2**count
        mean = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, mean, gradient)
        variance = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, variance, gradient)

        def update(name):
            change = (mean[name] / of_mean) / (jnp.sqrt(variance[name] / of_variance) + settings["epsilon"])
            shrink = 1 - rate * decay if decays(name, p[name]) else 1
            return p[name] * shrink - rate * change

        return {name: update(name) for name in p}, mean, variance, count, value

    return jax.jit(step, donate_argnums=(0, 1, 2, 3))


class Trainer:
    version = jax.__version__

    def __init__(self, job):
        m = job["model"]
        parameters = {
            name: jnp.asarray(tensor) for name, tensor in load_file(job["folder"] + "/model.safetensors").items()
        }
        zeros = [{name: jnp.zeros_like(tensor) for name, tensor in parameters.items()} for _ in "ab"]
        self.state = [parameters, *zeros, jnp.zeros(())]
        tokens = jnp.asarray(job["tokens"])
        self.ids, self.targets = tokens[:, :-1], tokens[:, 1:]
        self.run = train_step((gpt2 if m["family"] == "gpt2" else llama)(m, job["time"]), job["optimizer"])

    def step(self):
        """Forward, backward, the update of all parameters, and the loss before it, in nats a token."""
        *self.state, loss = self.run(*self.state, self.ids, self.targets)
        jax.block_until_ready(self.state)
        return {"loss": float(loss)}


if __name__ == "__main__":
    contend(Trainer)
