"""Greedy tokens of the default model on a GPU against those of a CPU in float32, which `default_model_tokens.json` has.

The file holds 32 prompts and their first 32 tokens by the C++ kernels: of a hundred prompts those whose tokens win by
most, as many choices of this small model are closer than what bfloat16 rounds away. Of 32 everyday prompts that nobody
chose, an H100 in bfloat16 answers 21 as a CPU in float32, a CPU in bfloat16 12 (`benchmarks/gpu_agreement.py`). Where
nothing can be downloaded, put the model's GGUF file where it is cached (`octavo collect-env` tells), or its path in
DEFAULT_MODEL_GGUF.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from octavo import LLM, SamplingParams

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

CASES = json.loads(Path(__file__).with_name("default_model_tokens.json").read_text())
NUM_TOKENS = 32


@pytest.mark.parametrize(("dtype", "least"), [("float32", 32), ("bfloat16", 30)])
@pytest.mark.parametrize("together", [True, False], ids=["together", "one-by-one"])
def test_greedy_tokens_are_those_of_the_cpu(gguf: str, dtype: str, least: int, together: bool) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": case["prompt_token_ids"]} for case in CASES]
    with LLM(gguf, dtype=dtype, max_model_len=512, enable_prefix_caching=False, use_tqdm_on_load=False) as llm:
        batches = [prompts] if together else [[prompt] for prompt in prompts]
        outputs = [output for batch in batches for output in llm.generate(batch, params, use_tqdm=False)]
    found = [output.outputs[0].token_ids for output in outputs]
    alike = sum(ours == case["token_ids"] for ours, case in zip(found, CASES, strict=True))
    assert alike >= least
