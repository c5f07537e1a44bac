"""The packaged default model against transformers, which reads the same GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from all_kernels import needs_cpp_kernels

from octavo import LLM, SamplingParams

PROMPTS = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
    "def fibonacci(n):",
    "Once upon a time, in a small village by the sea,",
    "1, 2, 3, 4,",
    "Water boils at",
    "Der schnelle braune Fuchs",
    "The three laws of motion were formulated by Isaac Newton. The first law states that",
]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def reference(default_gguf: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(default_gguf.parent, gguf_file=default_gguf.name, dtype=torch.float32)
    return model.eval()


@torch.inference_mode()
def test_greedy_tokens_in_float32_equal_those_of_transformers(default_gguf: Path, reference: Any) -> None:
    """Each token is the one that transformers finds most likely after the prompt and the tokens before it."""
    params = SamplingParams(temperature=0.0, max_tokens=48, min_tokens=48)
    with LLM(str(default_gguf), dtype="float32", max_model_len=512, use_tqdm_on_load=False) as llm:
        outputs = llm.generate(PROMPTS, params, use_tqdm=False)
    for output in outputs:
        assert output.prompt_token_ids is not None
        prompt, found = output.prompt_token_ids, output.outputs[0].token_ids
        logits = reference(torch.tensor([prompt + found])).logits[0, len(prompt) - 1 : -1]
        logits[:, reference.generation_config.eos_token_id] = -torch.inf  # as min_tokens asks
        assert found == logits.argmax(-1).tolist(), output.prompt


@torch.inference_mode()
@pytest.mark.parametrize(
    ("quantization", "chosen", "mean"),
    [("none", 0.1, 0.1), ("gguf", 0.5, 0.4), pytest.param("int8", 0.5, 0.4, marks=needs_cpp_kernels)],
)
def test_first_token_log_probabilities_in_bfloat16(
    default_gguf: Path, reference: Any, quantization: str, chosen: float, mean: float
) -> None:
    """Activations in 8 bits cost more than bfloat16 does."""
    params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=5)
    with LLM(str(default_gguf), quantization=quantization, max_model_len=512, use_tqdm_on_load=False) as llm:
        outputs = llm.generate(PROMPTS, params, use_tqdm=False)
    for output in outputs:
        logits = reference(torch.tensor([output.prompt_token_ids])).logits[0, -1]
        wanted = torch.log_softmax(logits, dim=-1)
        positions = output.outputs[0].logprobs
        assert positions is not None
        assert positions[0] is not None
        errors = [abs(entry.logprob - wanted[token_id].item()) for token_id, entry in positions[0].items()]
        assert errors[0] < chosen, output.prompt  # of the chosen token
        assert sum(errors) / len(errors) < mean, output.prompt  # of the five most likely


def test_answers_are_sensible(default_llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=24)
    (output,) = default_llm.generate("The capital of France is", params, use_tqdm=False)
    assert "Paris" in output.outputs[0].text
    question = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    first, second = default_llm.chat([question, question], params, use_tqdm=False)
    assert "Paris" in first.outputs[0].text
    assert first.outputs[0].text == second.outputs[0].text
    assert first.outputs[0].finish_reason == "stop"
    assert "<|im_end|>" not in first.outputs[0].text


def test_a_chat_streams_the_same_answer(default_llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=24)
    question = [{"role": "user", "content": "Name three colours, with an emoji each."}]
    (whole,) = default_llm.chat(question, params, use_tqdm=False)
    pieces = list(default_llm.stream_chat(question, params))
    assert len(pieces) > 3
    assert "".join(piece.outputs[0].text for piece in pieces) == whole.outputs[0].text
    assert [i for piece in pieces for i in piece.outputs[0].token_ids] == whole.outputs[0].token_ids
    assert [piece.finished for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_leaving_a_stream_aborts_it(default_llm: LLM) -> None:
    for _ in default_llm.stream_chat(
        [{"role": "user", "content": "Count to a hundred."}], SamplingParams(max_tokens=90)
    ):
        break
    assert not default_llm._engine._scheduler.requests  # type: ignore[attr-defined]
    assert default_llm._engine.stats.kv_cache_usage == 0
