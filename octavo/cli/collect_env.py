"""`octavo collect-env`: what a bug report should tell about the machine. It sends nothing anywhere."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from octavo.version import __version__

PACKAGES = (
    "torch",
    "numpy",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "jinja2",
    "transformers",
    "modelscope",
    "triton",
)


def add_arguments(parser: argparse.ArgumentParser) -> None: ...


def run(parsed: argparse.Namespace) -> int:
    for name, value in facts().items():
        print(f"{name}: {value}")
    return 0


def facts() -> dict[str, str]:
    """What is known of this machine and its packages, by name."""
    from octavo.platforms.select import current_platform  # loads torch

    found = {
        "octavo": __version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        **current_platform().facts(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
