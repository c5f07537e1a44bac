"""Writes the parts of the documentation that the code knows better: docs/models.md from the registry.

python docs/generate.py            write
python docs/generate.py --check    fail when a file is not what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

from octavo.config import LOAD_FORMATS
from octavo.kernels.gguf import BLOCK_FORMATS
from octavo.loading.gguf_names import ARCHITECTURES as GGUF_ARCHITECTURES
from octavo.loading.packages import PACKAGED_MODELS
from octavo.models.registry import ARCHITECTURES

PATH = Path(__file__).with_name("models.md")


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
        f"GGUF types: {', '.join(BLOCK_FORMATS)}. They are widened to the run's dtype while loading.",
        "",
        "## Packaged models",
        "",
        "These come from the Python package index, and need no hub:",
        "",
        *[f"* `{name}`" for name in PACKAGED_MODELS],
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    text = models_page()
    if "--check" not in sys.argv:
        PATH.write_text(text, encoding="utf-8")
    elif not PATH.exists() or PATH.read_text(encoding="utf-8") != text:
        sys.exit(f"{PATH.name} is not what the code says; run `make docs`")


if __name__ == "__main__":
    main()
