"""OpenVINO GenAI serves, straight from a GGUF file. It quantises activations to 8 bits where weights are quantised,
and gives no logits. One call is a whole text, so each round of decoding comes after the text so far, which is not
timed, and of which the pipeline still has the cache."""

import numpy as np
import openvino as ov
import openvino_genai

from contender import contend


class Server:
    version = openvino_genai.__version__

    def __init__(self, job):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = job["decodes"]  # Where reading is timed, each round must read.
        self.pipeline = openvino_genai.LLMPipeline(
            job["gguf"], "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=job["threads"]
        )
        (self.prompt,) = job["prompts"]

    def generate(self, ids, count):
        """`count` greedy tokens after `ids`, and the pipeline's own measures."""
        ids = np.array([ids], np.int64)
        inputs = openvino_genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        greedy = openvino_genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
        found = self.pipeline.generate(inputs, greedy)
        return list(found.tokens[0]), found.perf_metrics

    def start(self):
        tokens, metrics = self.generate(self.prompt, 1)
        self.text = self.prompt + tokens
        return {"tokens": [tokens], "milliseconds": metrics.get_ttft().mean}

    def logits(self):
        return {}

    def decode(self, count):
        # The first token comes with reading the text again; the `count` after it are what is timed.
        tokens, metrics = self.generate(self.text[:-1], count + 1)
        self.text = self.text[:-1] + tokens
        return {"tokens": [tokens[1:]], "milliseconds": count * metrics.get_tpot().mean}


if __name__ == "__main__":
    contend(Server)
