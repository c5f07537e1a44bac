"""How much memory loading takes: the weights as the kernels keep them, and little beside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from all_kernels import needs_cpp_kernels
from safetensors.torch import save_file

pytestmark = needs_cpp_kernels

HIDDEN, FFN, VOCAB, LAYERS = 512, 2048, 32768, 12
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "vocab_size": VOCAB,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
# Of this process from here on: the peak is not that of the imports.
LOAD = """
import sys
from pathlib import Path
import torch
from octavo.config import EngineArgs, resolve
from octavo.loading.config_reader import read_checkpoint
from octavo.loading.load_model import load_model
from octavo.platforms.select import current_platform

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

platform = current_platform()
args = EngineArgs.from_kwargs(model=sys.argv[1], quantization=sys.argv[2] or None, use_tqdm_on_load=False)
config = resolve(args, read_checkpoint(Path(sys.argv[1])), platform.traits())
platform.kernels.pack_linear(torch.ones(64, 64), None)
Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
before = status("VmRSS")
model = load_model(config.model, config.load, platform.device, platform.kernels)
print(status("VmHWM") - before, sum(layer.packed_bytes for layer in model.modules() if hasattr(layer, "packed_bytes")))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    weights = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights |= {prefix + f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        weights |= {prefix + f"mlp.{name}_proj.weight": (FFN, HIDDEN) for name in ("gate", "up")}
        weights |= {prefix + "mlp.down_proj.weight": (HIDDEN, FFN)}
        weights |= {prefix + f"{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    tensors = {name: torch.full(shape, 0.01, dtype=torch.bfloat16) for name, shape in weights.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("quantization", ["", "int8"])
def test_packed_weights_and_one_layer(folder: Path, quantization: str) -> None:
    command = [sys.executable, "-c", LOAD, str(folder), quantization]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    peak, packed = map(int, result.stdout.split())
    largest = VOCAB * HIDDEN * 2
    assert packed > largest / 2
    # The largest layer is there as it was read, as it lies in the file, and packed; 32 MB are between two trims.
    assert peak < 1.1 * packed + 2 * largest + (32 << 20)
