"""The table of architectures: the name in `architectures` of a configuration -> the class that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from octavo.errors import UnsupportedModelError, unknown_name
from octavo.models.base import CausalLM


@dataclass(frozen=True, slots=True)
class Architecture:
    home: str  # "module:Class"; the module is imported when a model of it is built
    what: str  # one line for the documentation


ARCHITECTURES: dict[str, Architecture] = {
    "Gemma3ForCausalLM": Architecture("octavo.models.gemma3:Gemma3ForCausalLM", "Gemma 3, text only"),
    "LlamaForCausalLM": Architecture("octavo.models.llama:LlamaForCausalLM", "Llama 1 to 3, SmolLM2 and others alike"),
    "MistralForCausalLM": Architecture("octavo.models.llama:MistralForCausalLM", "Mistral 7B, with its sliding window"),
    "OPTForCausalLM": Architecture("octavo.models.opt:OPTForCausalLM", "OPT, 125m to 66b"),
    "Qwen2ForCausalLM": Architecture("octavo.models.qwen2:Qwen2ForCausalLM", "Qwen 2 and 2.5"),
    "Qwen3ForCausalLM": Architecture("octavo.models.qwen3:Qwen3ForCausalLM", "Qwen 3, dense"),
}


def get_model_class(architecture: str, *, needs_remote_code: bool = False) -> type[CausalLM]:
    """The class for `architecture`; `needs_remote_code` tells that the checkpoint brings code for it.

    Raises:
        UnsupportedModelError: there is none; names the nearest.
    """
    if architecture not in ARCHITECTURES:
        remote = "; its checkpoint brings code for it, and octavo runs no code of a checkpoint" * needs_remote_code
        raise UnsupportedModelError(unknown_name("architecture", architecture, ARCHITECTURES) + remote)
    module, name = ARCHITECTURES[architecture].home.split(":")
    found: type[CausalLM] = getattr(import_module(module), name)
    return found
