"""PyTorch serves: the Llama of transformers, with PyTorch's own kernels for attention."""

import torch
from transformers import DynamicCache, LlamaForCausalLM, StaticCache

from contender import contend

TYPES = {"F32": torch.float32, "BF16": torch.bfloat16}


class Server:
    version = torch.__version__

    def __init__(self, job):
        torch.set_num_threads(job["threads"])
        model = LlamaForCausalLM.from_pretrained(job["folder"], dtype=TYPES[job["format"]], attn_implementation="sdpa")
        self.model = model.eval()
        self.prompts = torch.tensor(job["prompts"])
        self.positions = job["positions"]
        self.forward = self.model.forward
        # What is compiled has the addresses of one cache built in, so that cache is kept.
        self.static = StaticCache(config=model.config, max_cache_len=self.positions) if job["compile"] else None
        if job["compile"]:
            self.forward = torch.compile(self.model.forward, dynamic=False)

    @torch.inference_mode()
    def start(self):
        self.position = self.prompts.shape[1]
        if self.static is None:
            self.cache = DynamicCache(config=self.model.config)
        else:
            self.static.reset()
            self.cache = self.static
        self.found = self.model(self.prompts, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits[
            :, -1
        ]
        self.tokens = self.found.argmax(-1, keepdim=True)
        return {"tokens": self.tokens.tolist()}

    def logits(self):
        return {"logits": self.found[0].float().tolist()}

    @torch.inference_mode()
    def step(self):
        """The next logits [batch, vocabulary]."""
        positions = torch.full((len(self.prompts), 1), self.position)
        logits = self.forward(
            self.tokens, position_ids=positions, past_key_values=self.cache, use_cache=True
        ).logits[:, -1]  # fmt: skip
        self.tokens = logits.argmax(-1, keepdim=True)
        self.position += 1
        return logits

    def decode(self, count):
        texts = []
        for _ in range(count):
            self.step()
            texts.append(self.tokens)
        return {"tokens": torch.cat(texts, dim=1).tolist()}

    @torch.inference_mode()
    def reference(self, count):
        """The first token and `count` more of each sequence, and by how much each one's logit exceeds the next best."""
        self.start()
        tokens, logits = [self.tokens], [self.found]
        for _ in range(count):
            logits.append(self.step())
            tokens.append(self.tokens)
        best = [two.topk(2).values for two in logits]
        gaps = torch.stack([two[:, 0] - two[:, 1] for two in best], dim=1)
        return {"tokens": torch.cat(tokens, dim=1).tolist(), "gaps": gaps.tolist()}


if __name__ == "__main__":
    contend(Server)
