"""What a way to multiply costs in quality: perplexity of the default model on prose, relative to float32.

python benchmarks/perplexity.py [NUM_TOKENS [RUN ...]]      default 50,000, and all of RUNS; or a GGUF file

The text is the English prose of the reference that comes with every Python (pydoc_data.topics), in windows of 512
tokens; the first token of a window is not predicted.

A CPU has no products of 8 bits in floating point: the plain twin of the GPU's stands in, which rounds the same numbers
and multiplies them in float32.
"""

from __future__ import annotations

import json
import math
import sys
from pydoc_data.topics import topics
from typing import Any

from octavo import LLM, SamplingParams
from octavo.config import DEFAULT_MODEL
from octavo.kernels.cpu import CPUKernels
from octavo.kernels.torch_fp8 import RoundedLinear

WINDOW = 512
RUNS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"quantization": "none"},
    "as stored (Q4_1)": {},
    "int8": {"quantization": "int8"},
    "fp8 (plain twin)": {"quantization": "fp8", "enforce_eager": True},
    "fp8 KV cache": {"quantization": "none", "kv_cache_dtype": "fp8"},
    "fp8 and fp8 KV": {"quantization": "fp8", "kv_cache_dtype": "fp8", "enforce_eager": True},
}


def perplexity(num_tokens: int, model: str = DEFAULT_MODEL, **options: Any) -> float:
    """exp of the mean negative log probability of the tokens."""
    with LLM(model, max_model_len=WINDOW + 1, use_tqdm_on_load=False, **options) as llm:
        ids = llm.get_tokenizer().encode("\n\n".join(topics[name] for name in sorted(topics)))[:num_tokens]
        windows = [ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW)]
        params = SamplingParams(max_tokens=1, prompt_logprobs=0)
        total, count = 0.0, 0
        for output in llm.generate([{"prompt_token_ids": window} for window in windows], params, use_tqdm=False):
            rows = zip(output.prompt_token_ids[1:], (output.prompt_logprobs or [])[1:], strict=True)
            values = [(row or {})[token].logprob for token, row in rows]
            total, count = total + math.fsum(values), count + len(values)
    return math.exp(-total / count)


def multiply_by_twin() -> None:
    """From now on a CPU multiplies with weights of fp8."""
    CPUKernels.pack_fp8 = lambda _, *weights, **options: RoundedLinear(*weights, **options)  # type: ignore


def main() -> None:
    num_tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    names = ["float32", *sys.argv[2:]] if len(sys.argv) > 2 else list(RUNS)
    multiply_by_twin()
    found = {name: perplexity(num_tokens, **RUNS.get(name, {"model": name})) for name in names}
    for name, value in found.items():
        print(f"{name:18} {value:8.4f}  {100 * (value / found['float32'] - 1):+.3f} %")
    print(json.dumps({"num_tokens": num_tokens, **found}))


if __name__ == "__main__":
    main()
