"""The works that Diptych and its peers do: the one place where their sizes stand. It needs the standard library alone."""

import os
import random
from dataclasses import dataclass
from pathlib import Path

HOME = Path(os.environ.get("PEERS_HOME") or Path.home() / ".cache" / "diptych-peers")
MODEL = "SmolLM2-135M-Instruct"

# AdamW in f32 without clipping. Matrices decay; norms, biases and embedding tables do not.
OPTIMIZER = dict(learning_rate=3e-4, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
NORM_EPSILON = 1e-5
ROPE_THETA = 10000.0


@dataclass(frozen=True)
class Model:
    """A model to train: a Llama, or a GPT-2; the head is the embedding table."""

    name: str
    family: str  # as in `model_type` of a Hugging Face configuration
    dim: int
    layers: int
    heads: int
    key_value_heads: int
    hidden: int
    vocabulary: int
    context: int

    @property
    def folder(self):
        """A Hugging Face folder of its first weights, which prepare.py writes."""
        return HOME / "works" / self.name


@dataclass(frozen=True)
class Training:
    """Steps on one batch of random ids, always the same."""

    name: str
    model: Model
    batch: int
    time: int
    on_one: bool = True  # whether it is done on one thread, too, without being asked for by its name
    memory: int | None = None  # the bytes that `diptych-within` may take; without them it has no turn

    unit = "ms"

    @property
    def tokens(self):
        """`batch` rows of `time + 1` ids: inputs are all but a row's last, targets all but its first."""
        draw = random.Random(0)
        return [[draw.randrange(self.model.vocabulary) for _ in range(self.time + 1)] for _ in range(self.batch)]


@dataclass(frozen=True)
class Serving:
    """Greedy text after `prompt` tokens of English each. Without `new` tokens, prefill is what is timed."""

    name: str
    batch: int
    prompt: int
    new: int  # tokens of each sequence in a round of decoding
    on_one: bool = True

    unit = "tokens/s"


SMALL = Model("llama-15m", "llama", 288, 6, 6, 6, 768, 32000, 256)
GROUPED = Model("llama-grouped", "llama", 512, 4, 8, 2, 1408, 8192, 2048)
GPT2 = Model("gpt2-124m", "gpt2", 768, 12, 12, 12, 3072, 50257, 1024)
MODELS = [SMALL, GROUPED, GPT2]

# Rounds go on where the last one ended. Two tokens of warm-up and seven rounds of 18 are the 128 tokens of S1.
WARM_TOKENS = 2
ROUNDS = 7
WORKS = [
    Training("T1", SMALL, 8, 256),
    Training("T2a", GPT2, 4, 64),
    # 0.75 of the peak of torch.compile is 2312 MiB; some 30 MiB are the process itself.
    Training("T2b", GPT2, 4, 256, on_one=False, memory=2280 << 20),
    Training("T3", GROUPED, 1, 2048),
    Serving("S1", 1, 16, 18),
    Serving("S2", 1, 512, 0),
    Serving("S3-8", 8, 16, 9, on_one=False),
    Serving("S3-16", 16, 16, 9),
    Serving("S4", 1, 4096, 4, on_one=False),
]
