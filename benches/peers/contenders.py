"""Who does the works, how each is started, and in which formats it serves. It needs the standard library alone."""

import ctypes.util
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from works import HOME, MODEL, NORM_EPSILON, OPTIMIZER, ROPE_THETA, Training

HERE = Path(__file__).resolve().parent
PYTHON = HOME / "venv/bin/python"
OURS = "diptych"
REFERENCE = "torch-eager"  # In F32, the others' losses, logits and tokens are held against its.


@dataclass(frozen=True)
class Contender:
    name: str
    command: list = field(compare=False)
    trains: bool = False
    within: bool = False  # the work's memory, and only where the work limits it
    serves: tuple = ()  # formats of weights
    most_sequences: int = 64
    decodes_only: bool = False  # its prefill is that of another contender
    shortest_prompt: int = 0
    longest_prompt: int = 1 << 20
    pinned: bool = False  # to as many cores as it may have threads
    settings: dict = field(default_factory=dict, compare=False)
    variables: dict = field(default_factory=dict, compare=False)

    def formats(self, work):
        """The formats in which it does a work; none if it does not."""
        if isinstance(work, Training):
            return ("F32",) if self.trains and (work.memory or not self.within) else ()
        fits = work.batch <= self.most_sequences and self.shortest_prompt <= work.prompt <= self.longest_prompt
        return self.serves if fits and (work.new or not self.decodes_only) else ()

    def environment(self, threads):
        return {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"} | self.variables


def python(script):
    return [PYTHON, HERE / script]


def diptych():
    return [HERE.parents[1] / "target/release/examples/peer_work"]


# tcmalloc, where the system has it: it keeps the large blocks that PyTorch frees in each step, where the C library
# gives them back to the kernel.
TCMALLOC = ctypes.util.find_library("tcmalloc_minimal")
COMPILED = {"TORCHINDUCTOR_CACHE_DIR": str(HOME / "inductor")}

EAGER, INDUCTOR = {"compile": False}, {"compile": True}

ALL = [
    Contender(OURS, diptych(), trains=True, serves=("F32", "F16", "Q8_0", "Q4_1", "Q4_0")),
    # As llama.cpp has its cache whatever the weights are in; where the cache is long enough to matter.
    Contender(
        "diptych-f16-cache",
        diptych(),
        serves=("F32", "F16", "Q8_0", "Q4_1", "Q4_0"),
        shortest_prompt=1024,
        settings={"cache": "f16"},
    ),
    Contender("diptych-within", diptych(), trains=True, within=True),
    Contender("torch-eager", python("train_torch.py"), trains=True, settings=EAGER),
    Contender(
        "torch-tcmalloc", python("train_torch.py"), trains=True, settings=EAGER, variables={"LD_PRELOAD": TCMALLOC}
    ),
    Contender("torch-compile", python("train_torch.py"), trains=True, settings=INDUCTOR, variables=COMPILED),
    Contender("jax", python("train_jax.py"), trains=True, pinned=True, variables={"JAX_PLATFORMS": "cpu"}),
    Contender("torch-eager", python("serve_torch.py"), serves=("F32",), settings=EAGER),
    Contender(
        "torch-compile",
        python("serve_torch.py"),
        serves=("F32",),
        decodes_only=True,
        longest_prompt=512,  # Beyond, its cache of a fixed size makes it slower than eager.
        settings=INDUCTOR,
        variables=COMPILED,
    ),
    Contender(
        "llama.cpp",
        python("serve_llama_cpp.py"),
        serves=("F32", "F16", "Q8_0", "Q4_1", "Q4_0"),
        variables={"LLAMA_CPP_LIB_PATH": str(HOME / "llama.cpp/bin")},
    ),
    Contender(
        "openvino",
        [HOME / "venv-openvino/bin/python", HERE / "serve_openvino.py"],
        serves=("Q8_0",),
        most_sequences=1,
    ),
]
CONTENDERS = [c for c in ALL if TCMALLOC or c.name != "torch-tcmalloc"]
PEERS = list(dict.fromkeys(c.name for c in CONTENDERS if not c.name.startswith(OURS)))


def job_of(work, contender, form, threads, new):
    """What the contender is told to do: the first line that it reads. A sequence that is served gets at most `new`
    tokens more."""
    if isinstance(work, Training):
        model = dataclasses.asdict(work.model) | {"norm_epsilon": NORM_EPSILON, "rope_theta": ROPE_THETA}
        job = dict(
            kind="train",
            folder=str(work.model.folder),
            model=model,
            time=work.time,
            tokens=work.tokens,
            optimizer=OPTIMIZER,
            memory=work.memory if contender.within else None,
        )
    else:
        ids = json.loads((HOME / "works/prompt.json").read_text())
        prompts = [ids[at : at + work.prompt] for at in range(0, work.batch * work.prompt, work.prompt)]
        job = dict(
            kind="serve",
            folder=str(HOME / "models" / MODEL),
            gguf=str(HOME / "models" / f"{MODEL}.{form}.gguf"),
            prompts=prompts,
            decodes=work.new > 0,
            positions=work.prompt + new,
        )
    return job | contender.settings | {"format": form, "threads": threads}
