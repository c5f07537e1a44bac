"""Which formats a model writes, told from its chat template: a template writes earlier calls as the model does."""

from __future__ import annotations

# Each: the marks that a template has, and the name of the parser. The first that fits is taken.
_TOOLS = (
    (("<|channel|>", "<|call|>"), "openai"),
    (("<｜tool▁calls▁begin｜>",), "deepseek_v3"),
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<arg_key>",), "glm45"),
    (("<function=", "<parameter="), "qwen3_coder"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|python_start|>",), "llama4_pythonic"),
    (("<|header_start|>", "tools"), "llama4_pythonic"),
    (("<|start_header_id|>", "tools"), "llama3_json"),
    (("<start_function_call>",), "gemma"),
    (("<|tool_call>",), "gemma"),
    (("<|tool_call|>",), "granite"),
    (("<tool_call>",), "hermes"),
)
_REASONING = (
    (("<|channel|>", "<|start|>", "analysis"), "openai_gptoss"),
    (("[THINK]",), "mistral"),
    (("<seed:think>",), "seed_oss"),
    (("<|channel>",), "gemma4"),
    (("Here is my thought process:",), "granite"),
    (("<｜Assistant｜>", "</think>"), "deepseek_r1"),
    (("<think>",), "think"),
    (("</think>",), "think"),
)


def recognised_tool_parser(template: str) -> str | None:
    """The name of the parser for the calls that the template writes; None: none of the known ones."""
    return _first(_TOOLS, template)


def recognised_reasoning_parser(template: str) -> str | None:
    """The name of the parser for the reasoning that the template writes; None: none of the known ones."""
    return _first(_REASONING, template)


def _first(table: tuple[tuple[tuple[str, ...], str], ...], template: str) -> str | None:
    return next((name for marks, name in table if all(mark in template for mark in marks)), None)
