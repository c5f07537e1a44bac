"""Writes the parts of the documentation that the code knows better: docs/models.md from the registry, and the flags of
`octavo serve` into docs/serving.md, between two marks.

python docs/generate.py            write
python docs/generate.py --check    fail when a file is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from octavo.cli import serve
from octavo.config import LOAD_FORMATS, QUANTIZATIONS
from octavo.kernels.cpu import CPUKernels
from octavo.kernels.gguf import BLOCK_FORMATS
from octavo.loading.gguf_names import ARCHITECTURES as GGUF_ARCHITECTURES
from octavo.loading.packages import PACKAGED_MODELS
from octavo.models.registry import ARCHITECTURES

DOCS = Path(__file__).parent
BEGIN = "<!-- flags: made by `make docs` from the code; do not edit -->"
END = "<!-- end of the flags -->"


def models_page() -> str:
    lines = [
        "# Models",
        "",
        "Made by `make docs` from the code; do not edit.",
        "",
        "| architecture | what it is | as GGUF |",
        "|---|---|---|",
    ]
    for architecture in sorted(ARCHITECTURES):
        what = ARCHITECTURES[architecture].what
        # Mistral's files say llama; else the names are alike.
        gguf = {"mistral": "llama"}.get(name := architecture.removesuffix("ForCausalLM").lower(), name)
        lines.append(f"| `{architecture}` | {what} | {f'`{gguf}`' if gguf in GGUF_ARCHITECTURES else 'no'} |")
    lines += [
        "",
        "Models that need code of their checkpoint (`trust_remote_code`) are refused.",
        "",
        "## Formats",
        "",
        f"`load_format`: {', '.join(f'`{name}`' for name in LOAD_FORMATS)}. "
        "Where a folder has no safetensors, `pytorch_model.bin` is read by torch's restricted reader: tensors only.",
        "",
        f"GGUF types: {', '.join(BLOCK_FORMATS)}. In bfloat16 runs the C++ kernels multiply with "
        f"{', '.join(CPUKernels.block_types)} as they are; all else is widened while loading.",
        "",
        f"`quantization`: {', '.join(f'`{name}`' for name in QUANTIZATIONS)}. `none` widens a GGUF file to the run's "
        "dtype; `int8` rounds any checkpoint to 8 bits, symmetrically, with a scale for each output channel, and "
        "activations with one for each 64 of a row; `fp8` rounds any to 8 bits of floating point on an NVIDIA GPU "
        "([quantization.md](quantization.md)).",
        "",
        "## Packaged models",
        "",
        "These come from the Python package index, and need no hub:",
        "",
        *[f"* `{name}`" for name in PACKAGED_MODELS],
        "",
    ]
    return "\n".join(lines)


def serving_page() -> str:
    text = (DOCS / "serving.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(f"serving.md has lost one of its marks: {BEGIN} and {END}")
    return "\n".join([before + BEGIN, "", *flag_tables(), END + after])


def flag_tables() -> list[str]:
    """One table per group of flags, in the order of the help."""
    parser = argparse.ArgumentParser(add_help=False)
    serve.add_arguments(parser)
    groups: dict[str, list[argparse.Action]] = {}
    for group in parser._action_groups:
        flags = [action for action in group._group_actions if action.option_strings]
        if flags:
            groups[{"options": "Configuration"}.get(group.title or "", group.title or "")] = flags
    lines = []
    for title, flags in groups.items():
        lines += [f"### {title}", "", "| flag | what it does |", "|---|---|"]
        lines += [
            f"| {' '.join(f'`{flag}`' for flag in action.option_strings)} | {_what(action)} |" for action in flags
        ]
        lines.append("")
    return lines


def _what(action: argparse.Action) -> str:
    # Where the choices are numbers, the help says what each of them means.
    choices = f"{', '.join(action.choices)}: " if action.choices and action.type is None else ""
    return (choices + (action.help or "")).replace("%%", "%").replace("|", "\\|").replace("*", "\\*")


def main() -> None:
    for name, text in (("models.md", models_page()), ("serving.md", serving_page())):
        path = DOCS / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{name} is not what the code says; run `make docs`")


if __name__ == "__main__":
    main()
