"""Filling a model: every tensor of a checkpoint to its place, every place filled, or an error that names what is not.

It knows neither files nor architectures: names and tensors come in, WeightMap and the layers' slots say where to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

import torch

from octavo.config import ModelConfig
from octavo.errors import ConfigError, WeightError, unknown_name
from octavo.layers.base import Kernels, Layer, Slot
from octavo.layers.embedding import Embedding, LMHead
from octavo.layers.linear import Linear
from octavo.models.base import CausalLM
from octavo.models.registry import get_model_class
from octavo.quantization.base import LinearMethod, Weight
from octavo.quantization.fp8 import Fp8LinearMethod
from octavo.quantization.gguf import GGUFLinearMethod
from octavo.quantization.int8 import Int8LinearMethod
from octavo.quantization.unquantized import UnquantizedLinearMethod

LINEAR_METHODS: dict[str | None, type[LinearMethod]] = {
    None: UnquantizedLinearMethod,
    "fp8": Fp8LinearMethod,
    "gguf": GGUFLinearMethod,
    "int8": Int8LinearMethod,
}
SHOWN = 10  # names in one error message
DUMMY_RANGE = 0.03  # of the uniform numbers in dummy weights: activations stay finite in any depth


def build_model(model_config: ModelConfig, device: torch.device) -> CausalLM:
    """The model with its parameters allocated on `device`, not yet filled.

    Raises:
        ModelError: the architecture is unknown, or its configuration is not one that octavo can run.
        ConfigError: the quantization is unknown.
    """
    if model_config.quantization not in LINEAR_METHODS:
        known = [name for name in LINEAR_METHODS if name is not None]
        raise ConfigError(unknown_name("quantization", str(model_config.quantization), known))
    model = get_model_class(model_config.architecture)(model_config.hf_config)
    dtype: torch.dtype = getattr(torch, model_config.dtype)
    for _, layer in _layers(model):
        if isinstance(layer, Linear):
            method = LINEAR_METHODS[model_config.quantization]
            layer.method = method.for_head() if isinstance(layer, LMHead) else method()
        elif isinstance(layer, Embedding):
            layer.keeps_blocks = model_config.quantization == "gguf"
        layer.create_weights(dtype, device)
    return model.eval()


@torch.no_grad()
def load_weights(model: CausalLM, weights: Iterable[tuple[str, Weight]], kernels: Kernels | None = None) -> None:
    """Copies each tensor to its place as it comes; one at a time is held beside the model.

    With `kernels`, each layer that is complete is attached to them at once. A checkpoint of a model with tied
    embeddings may carry `lm_head.weight`: it is skipped.

    Raises:
        WeightError: names tensors that nothing takes, that come twice or have a wrong shape, and places left empty.
    """
    layers = dict(_layers(model))
    completion = _Completion(layers.values(), kernels)
    missing = {(path, slot): shape for path, layer in layers.items() for slot, shape in layer.slots().items()}
    to_come = Counter(path for path, _ in missing)
    filled: set[tuple[str, Slot]] = set()
    left_over: list[str] = []
    twice: list[str] = []
    misshapen: list[str] = []
    for name, tensor in weights:
        place = model.weight_map.resolve(name)
        if place is None or _is_copy_of_embedding(layers.get(place[0]), place[1]):
            continue
        if place in filled:
            twice.append(name)
        elif place not in missing:
            left_over.append(name)
        else:
            shape = missing.pop(place)
            filled.add(place)
            if tuple(tensor.shape) == shape:
                layer = layers[place[0]]
                layer.load_weight(place[1], tensor)
                to_come[place[0]] -= 1
                if not to_come[place[0]]:
                    completion.complete(layer)
            else:
                misshapen.append(f"{name} is {list(tensor.shape)} instead of {list(shape)}")
    problems = [
        _listed("tensors of the checkpoint that the model has no place for", left_over),
        _listed("tensors that come twice", twice),
        _listed("tensors of a wrong shape", misshapen),
        _listed("parameters that the checkpoint does not fill", _names(model, missing)),
    ]
    if any(problems):
        raise WeightError(
            f"the weights do not fit {type(model).__name__}: {'; '.join(filter(None, problems))}. "
            "Check that the weights and config.json belong together and that all files are complete"
        )
    completion.complete_rest()


@torch.no_grad()
def init_dummy(model: CausalLM, seed: int, kernels: Kernels | None = None) -> None:
    """Fills the model with reproducible small numbers, norms with 1: for measuring speed without a checkpoint.

    With `kernels`, each layer is attached to them when it is filled.
    """
    layers = [layer for _, layer in _layers(model)]
    completion = _Completion(layers, kernels)
    generator = torch.Generator().manual_seed(seed)
    # One pool of random numbers for all: drawing each parameter's own would take many times as long.
    pool = torch.empty(1 << 20).uniform_(-DUMMY_RANGE, DUMMY_RANGE, generator=generator)
    for layer in layers:
        for name, weight in layer.named_parameters(recurse=False):
            constant = layer.dummy_value(name)
            if constant is not None:
                weight.fill_(constant)
                continue
            flat, numbers = weight.view(-1), pool.to(weight)
            for start in range(0, len(flat), len(numbers)):
                part = flat[start : start + len(numbers)]
                part.copy_(numbers[: len(part)])
        completion.complete(layer)


class _Completion:
    """Tells layers that their weights are there, and hands them to the kernels, each once."""

    def __init__(self, layers: Collection[Layer], kernels: Kernels | None) -> None:
        self._waiting = dict.fromkeys(layers)
        self._kernels = kernels
        self._tied = {layer.tied_to[0]: layer for layer in layers if isinstance(layer, LMHead) and layer.tied_to}

    def complete(self, layer: Layer) -> None:
        if layer not in self._waiting:
            return
        del self._waiting[layer]
        layer.finish_loading()
        if self._kernels is not None:
            layer.attach(self._kernels)
        if isinstance(layer, Embedding) and layer in self._tied:
            self.complete(self._tied[layer])

    def complete_rest(self) -> None:
        """The layers without weights of their own."""
        for layer in list(self._waiting):
            self.complete(layer)


def _layers(model: CausalLM) -> Iterator[tuple[str, Layer]]:
    for path, module in model.named_modules():
        if isinstance(module, Layer):
            yield path, module


def _is_copy_of_embedding(layer: Layer | None, slot: Slot) -> bool:
    return isinstance(layer, LMHead) and bool(layer.tied_to) and slot == Slot("weight", 0)


def _names(model: CausalLM, places: Iterable[tuple[str, Slot]]) -> list[str]:
    """The names that a checkpoint would use for `places`."""
    stacked = {stack: layer for layer, stack in model.weight_map.stacked.items()}
    names: list[str] = []
    for path, (parameter, shard) in places:
        parent, _, layer = path.rpartition(".")
        layer = stacked.get((layer, shard), layer)
        names.append(".".join(filter(None, (parent, layer, parameter))))
    return names


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}"
