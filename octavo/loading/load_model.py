"""From a settled configuration to a model with its weights: the format's reader joined with the filling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from octavo.config import LoadConfig, ModelConfig
from octavo.layers.base import Kernels
from octavo.loading import heap
from octavo.loading.gguf_weights import GGUFWeights
from octavo.loading.load import build_model, init_dummy, load_weights
from octavo.loading.pickled import FILES as PICKLED_FILES
from octavo.loading.pickled import PickledWeights
from octavo.loading.safetensors import FILES as SAFETENSORS_FILES
from octavo.loading.safetensors import SafetensorsWeights
from octavo.models.base import CausalLM
from octavo.quantization.base import Weight

_TRIM_EVERY = 32 << 20  # bytes of a checkpoint


def load_model(model_config: ModelConfig, load_config: LoadConfig, device: torch.device, kernels: Kernels) -> CausalLM:
    """The model on `device`, filled from its checkpoint, or with small random numbers for load_format "dummy".

    Its layers call `kernels`, which take weights over layer by layer: the most memory at any time is that of the model
    as the kernels keep it, and of one layer more.

    Raises:
        ModelError: the architecture is not supported, or the weights are damaged or do not fit it.
    """
    path = Path(model_config.checkpoint.path)
    if load_config.load_format == "dummy":
        model = build_model(model_config, device)
        init_dummy(model, load_config.seed, kernels)
        return model
    weights = GGUFWeights(path) if load_config.load_format == "gguf" else _folder_weights(path, device)
    model = build_model(model_config, device)
    load_weights(model, _with_progress(weights, load_config.use_tqdm_on_load), kernels)
    return model


def _folder_weights(folder: Path, device: torch.device) -> SafetensorsWeights | PickledWeights:
    """Safetensors where there are any, else pickled weights."""
    pickled = PICKLED_FILES.present(folder) and not SAFETENSORS_FILES.present(folder)
    return PickledWeights(folder) if pickled else SafetensorsWeights(folder, pinned=device.type == "cuda")


def _with_progress(
    weights: GGUFWeights | SafetensorsWeights | PickledWeights, shown: bool
) -> Iterator[tuple[str, Weight]]:
    """The same tensors, with a bar of the bytes read, and the heap kept small on the way."""
    bytes_since_trim = 0
    with tqdm(total=weights.total_bytes, desc="Loading weights", unit="B", unit_scale=True, disable=not shown) as bar:
        for name, tensor in weights:
            yield name, tensor
            bar.update(tensor.nbytes)
            bytes_since_trim += tensor.nbytes
            if bytes_since_trim > _TRIM_EVERY:
                heap.trim()
                bytes_since_trim = 0
    heap.trim()
