"""llama.cpp serves, through its C interface as its Python binding names it; built for this processor by setup.sh.

Its cache is in f16, as it is by default and fastest, and its attention is the fused one.
"""

import ctypes

import llama_cpp
import numpy as np

from contender import contend

LOGICAL_BATCH, PHYSICAL_BATCH = 2048, 512


class Server:
    version = llama_cpp.__version__

    def __init__(self, job):
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
        self.model = llama_cpp.llama_model_load_from_file(job["gguf"].encode(), options)
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {job['gguf']}")
        self.prompts = job["prompts"]
        options = llama_cpp.llama_context_default_params()
        options.n_seq_max = len(self.prompts)
        options.n_ctx = job["positions"] * len(self.prompts)
        options.n_batch, options.n_ubatch = LOGICAL_BATCH, PHYSICAL_BATCH
        options.n_threads = options.n_threads_batch = job["threads"]
        options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise SystemExit("llama.cpp makes no context: there is not enough memory")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(LOGICAL_BATCH, 0, 1)

    def run(self, tokens):
        """Runs (token, position, sequence, whether its logits are wanted), and returns the logits that are."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for at, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[at], batch.pos[at] = token, position
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
            batch.logits[at] = wanted
        if llama_cpp.llama_decode(self.context, batch):
            raise SystemExit("llama.cpp: llama_decode has failed")
        return [self.logits_of(at) for at, token in enumerate(tokens) if token[3]]

    def logits_of(self, row):
        """A view of the logits of a row of the last batch: f32[vocabulary]."""
        first = llama_cpp.llama_get_logits_ith(self.context, row)
        return np.ctypeslib.as_array(ctypes.cast(first, ctypes.POINTER(ctypes.c_float)), (self.vocabulary,))

    def start(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)
        length = len(self.prompts[0])
        rows = [
            (token, position, sequence, position == length - 1)
            for sequence, prompt in enumerate(self.prompts)
            for position, token in enumerate(prompt)
        ]
        found = []
        for at in range(0, len(rows), LOGICAL_BATCH):
            part = self.run(rows[at : at + LOGICAL_BATCH])
            if part and not found:
                self.first = part[0].copy()
            found += [int(logits.argmax()) for logits in part]
        self.tokens, self.position = found, length
        return {"tokens": [[token] for token in found]}

    def logits(self):
        return {"logits": self.first.tolist()}

    def decode(self, count):
        texts = [[] for _ in self.prompts]
        for _ in range(count):
            rows = [(token, self.position, sequence, True) for sequence, token in enumerate(self.tokens)]
            self.tokens = [int(logits.argmax()) for logits in self.run(rows)]
            self.position += 1
            for text, token in zip(texts, self.tokens):
                text.append(token)
        return {"tokens": texts}


if __name__ == "__main__":
    contend(Server)
