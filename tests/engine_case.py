"""A small Llama with heads of 128 numbers, run by the engine: what it says of prompts, and what it goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCAB, CONTEXT = 320, 512
PROMPTS = [
    [(7 * i + 13 * j * j) % VOCAB for j in range(length)] for i, length in enumerate((1, 3, 17, 64, 200, 33, 310, 90))
]


def make_llama(folder: Path) -> str:
    """In bfloat16, with random weights of the size that training gives."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=512,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=128,
        max_position_embeddings=CONTEXT,
        initializer_range=0.08,
        bos_token_id=1,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


class Answers:
    """Log probabilities of the prompts' tokens, [P][length - 1], and greedy answers with theirs, [P][num_output]."""

    def __init__(self, model: str, num_output: int = 24, **options: Any) -> None:
        from octavo import LLM, SamplingParams

        settings = {"max_model_len": CONTEXT, "skip_tokenizer_init": True, "use_tqdm_on_load": False, **options}
        params = SamplingParams(
            max_tokens=num_output, temperature=0, ignore_eos=True, prompt_logprobs=0, logprobs=0, detokenize=False
        )
        with LLM(model, **settings) as llm:
            outputs = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)
        self.prompts: list[list[float]] = []
        self.tokens: list[list[int]] = []
        self.logprobs: list[list[float]] = []
        for output in outputs:
            rows = zip(output.prompt_token_ids[1:], (output.prompt_logprobs or [])[1:], strict=True)
            self.prompts.append([row[token].logprob for token, row in rows])
            first = output.outputs[0]
            self.tokens.append(list(first.token_ids))
            self.logprobs.append(
                [row[token].logprob for token, row in zip(first.token_ids, first.logprobs, strict=True)]
            )

    def differences(self, other: Answers) -> torch.Tensor:
        """Of the log probabilities of the prompts' tokens and of the answers as far as both are the same."""
        found: list[float] = []
        for mine, theirs in zip(self.prompts, other.prompts, strict=True):
            found += [abs(a - b) for a, b in zip(mine, theirs, strict=True)]
        for row in range(len(PROMPTS)):
            found += [abs(a - b) for a, b in zip(self._common(row), other._common(row, self), strict=False)]
        return torch.tensor(found)

    def _common(self, row: int, other: Answers | None = None) -> list[float]:
        return self.logprobs[row][: self.agreed(other or self)[row]]

    def agreed(self, other: Answers) -> list[int]:
        """Tokens of each answer before the first that differs."""
        counts = []
        for mine, theirs in zip(self.tokens, other.tokens, strict=True):
            same = [a == b for a, b in zip(mine, theirs, strict=True)]
            counts.append(same.index(False) if False in same else len(same))
        return counts
