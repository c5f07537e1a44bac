"""GGUFWeights: the tensors of a GGUF file under their Hugging Face names, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from octavo.errors import WeightError, shown
from octavo.loading.gguf import GGUFFile
from octavo.loading.gguf_names import hf_name, hf_tensor
from octavo.quantization.gguf_tensor import GGUFTensor


class GGUFWeights:
    """Iterates over (HF name, tensor) in the order of the file.

    F32, F16 and BF16 tensors come as torch tensors, others as GGUFTensor; they may be views of the mapped file, which
    must not be written to. `total_bytes` is what they take in the file, for a progress bar.

    Raises:
        ModelError: as GGUFFile; a file that `gguf_config.hf_config` has read is known to be of a readable architecture.
        WeightError: while iterating: a tensor that the number of heads does not divide.
    """

    def __init__(self, path: Path) -> None:
        self._file = GGUFFile(path)
        self.total_bytes = sum(info.nbytes for info in self._file.tensors.values())

    def __iter__(self) -> Iterator[tuple[str, Tensor | GGUFTensor]]:
        metadata = self._file.metadata
        architecture = metadata["general.architecture"]
        num_heads = metadata[f"{architecture}.attention.head_count"]
        num_kv_heads = metadata.get(f"{architecture}.attention.head_count_kv", num_heads)
        for info in sorted(self._file.tensors.values(), key=lambda info: info.offset):
            if info.name == "rope_freqs.weight":  # RoPE scaling in another form; gguf_config reads it
                continue
            tensor = self._file.tensor(info.name)
            try:
                tensor = hf_tensor(architecture, info.name, tensor, num_heads=num_heads, num_kv_heads=num_kv_heads)
            except RuntimeError as error:
                raise WeightError(
                    f"{self._file.path}: tensor {shown(info.name)} of shape {info.shape} does not go with {num_heads} "
                    f"heads and {num_kv_heads} key-value heads"
                ) from error
            yield hf_name(architecture, info.name), tensor
            self._file.forget(info.offset + info.nbytes)
