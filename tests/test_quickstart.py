"""The quickstart's offline scripts as users of the field write them, with octavo in the place of the other engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from tokenizers.pre_tokenizers import ByteLevel

GENERATE = """
from octavo import LLM, SamplingParams

prompts = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95)
llm = LLM(model=MODEL)
outputs = llm.generate(prompts, sampling_params)
for output in outputs:
    prompt = output.prompt
    generated_text = output.outputs[0].text
    print(f"Prompt: {prompt!r}, Generated text: {generated_text!r}")
"""

CHAT = """
messages_list = [[{"role": "user", "content": prompt}] for prompt in prompts]
tokenizer = llm.get_tokenizer()
texts = tokenizer.apply_chat_template(messages_list, tokenize=False, add_generation_prompt=True)
greedy = SamplingParams(temperature=0.0, max_tokens=8)
by_template = llm.generate(texts, greedy)
by_chat = llm.chat(messages_list, greedy)
one = llm.chat(messages_list[2], greedy)
assert one[0].outputs[0].text == by_chat[2].outputs[0].text
for output, same in zip(by_chat, by_template):
    assert output.outputs[0].text == same.outputs[0].text
    print(f"Chat: {output.prompt!r}, Generated text: {output.outputs[0].text!r}")
"""


def run(script: str, model: Path) -> str:
    code = f"MODEL = {str(model)!r}\n{script}"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def opt_folder(folder: Path) -> Path:
    """A tiny OPT with random weights and a byte-level vocabulary, in the files that OPT ships."""
    alphabet = sorted(ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet, "\u0120t", "he"])}
    config = transformers.OPTConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    transformers.OPTForCausalLM(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n\u0120 t\nh e\n")
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.slow
def test_the_default_model(default_gguf: Path) -> None:
    out = run(GENERATE + CHAT, default_gguf)
    assert out.count("Prompt:") == 4
    assert out.count("Chat: '<|im_start|>system") == 4


def test_a_folder_with_opt(tmp_path: Path) -> None:
    out = run(GENERATE, opt_folder(tmp_path))
    assert out.count("Prompt:") == 4
    assert "Prompt: 'The capital of France is'" in out
