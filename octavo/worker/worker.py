"""Worker: a device from the first moment to the last: model, memory plan, KV cache, steps."""

from __future__ import annotations

import gc

import torch
from torch import Tensor

from octavo.attention.base import AttentionBackend, AttentionSpec
from octavo.attention.cpu_attn import CPUAttentionBackend
from octavo.attention.select import select_backend
from octavo.batch import GrammarBitmask, ScheduledBatch
from octavo.config import EngineConfig, KVCacheLayout, KVGroupSpec
from octavo.cost import MachineRates, ModelCost
from octavo.errors import UnsupportedModelError
from octavo.layers.base import Layer, attach_attention
from octavo.loading.load_model import load_model
from octavo.log import get_logger
from octavo.models.base import CausalLM
from octavo.platforms.base import Platform
from octavo.sampling.sampler import Sampler
from octavo.worker.captured_prompt import CapturedPrompt
from octavo.worker.captured_step import CapturedStep
from octavo.worker.compile_ahead import compile_ahead
from octavo.worker.graph_pool import GraphPool
from octavo.worker.input_batch import InputBatch
from octavo.worker.launched_step import LaunchedStep
from octavo.worker.memory_plan import MemoryNeeds, activation_bytes, group_layers, layout, plan_memory
from octavo.worker.model_cost import kv_bytes_per_token, model_cost
from octavo.worker.model_runner import ModelRunner
from octavo.worker.peak import measure_activations
from octavo.worker.recorded_step import RecordedStep
from octavo.worker.step_buffers import StepBuffers
from octavo.worker.step_graph import EagerStep, Forward, StepGraph

logger = get_logger(__name__)


class Worker:
    def __init__(self, config: EngineConfig, platform: Platform) -> None:
        self._config = config
        self._platform = platform
        self._dtype: torch.dtype = getattr(torch, config.model.dtype)
        self._cache_dtype: torch.dtype = getattr(torch, config.cache.dtype)
        self._model: CausalLM | None = None
        self._runner: ModelRunner | None = None
        self._cost: ModelCost | None = None

    @property
    def model(self) -> CausalLM:
        assert self._model is not None, "load was not called"
        return self._model

    @property
    def runner(self) -> ModelRunner:
        assert self._runner is not None, "kv_capacity was not called"
        return self._runner

    def start(self) -> None:
        logger.info("platform: %s", self._platform.describe())

    def load(self) -> None:
        config, platform = self._config, self._platform
        self._model = load_model(config.model, config.load, platform.device, platform.kernels)

    def kv_capacity(self) -> KVCacheLayout:
        """Plan the memory, allocate the KV cache and get ready for steps."""
        config, model, device = self._config, self.model, self._platform.device
        specs = [
            layer.spec(self._dtype, self._cache_dtype, config.cache.block_size) for layer in model.attention_layers()
        ]
        if len({(spec.num_kv_heads, spec.head_dim) for spec in specs}) != 1:
            raise UnsupportedModelError("layers with KV heads of different number or size are not supported yet")
        backend = select_backend(
            config.attention.backend, self._platform.attention_backends, specs, device, self._platform.kernels
        )
        max_model_len = config.scheduler.max_model_len
        groups = group_layers(
            [None if (s.sliding_window or max_model_len) >= max_model_len else s.sliding_window for s in specs]
        )
        attach_attention(model, backend, groups)
        with compile_ahead(config, self._platform, backend, groups, self._cache_shape(backend, specs[0], 1)):
            return self._prepare_steps(backend, groups, specs[0])

    def _prepare_steps(
        self, backend: AttentionBackend, groups: tuple[KVGroupSpec, ...], spec: AttentionSpec
    ) -> KVCacheLayout:
        config, model, device = self._config, self.model, self._platform.device
        max_model_len = config.scheduler.max_model_len
        block_shape = self._cache_shape(backend, spec, 1)
        bytes_per_block = len(groups[0].layer_ids) * self._cache_dtype.itemsize * torch.Size(block_shape).numel()
        activations = self._activations(backend, groups, block_shape)
        plan = plan_memory(self._needs(bytes_per_block, activations), config.cache, config.scheduler, groups)
        logger.info("%s", plan.table())
        kv_layout = layout(plan, groups)
        kv_caches = self._allocate(self._cache_shape(backend, spec, plan.num_blocks), groups)
        scheduler = config.scheduler
        buffers = StepBuffers(
            max_num_tokens=scheduler.max_num_batched_tokens,
            max_num_seqs=scheduler.max_num_seqs,
            max_blocks=-(-max_model_len // kv_layout.block_size),
            num_groups=len(groups),
            device=device,
        )
        rows = InputBatch(buffers, max_model_len=max_model_len, block_size=kv_layout.block_size, device=device)
        kv_bytes = kv_bytes_per_token(kv_caches, plan.num_blocks * plan.block_size)
        self._cost = model_cost(model, kv_bytes, self._dtype)
        self._runner = ModelRunner(
            model=model,
            rows=rows,
            graphs=self._graphs(Forward(model, backend, groups, kv_caches, buffers, rows.token_ids)),
            sampler=Sampler(
                vocab_size=config.model.vocab_size,
                max_num_seqs=scheduler.max_num_seqs,
                device=device,
                kernels=self._platform.kernels.sampling,
            ),
        )
        return kv_layout

    def _cache_shape(self, backend: AttentionBackend, spec: AttentionSpec, num_blocks: int) -> tuple[int, ...]:
        """Of one layer's KV cache."""
        return backend.kv_cache_shape(
            num_blocks, self._config.cache.block_size, spec.num_kv_heads, spec.head_dim, self._cache_dtype
        )

    def _graphs(self, forward: Forward) -> list[StepGraph]:
        """The ways to run a step, the fastest first; the last one takes every step."""
        eager = EagerStep(forward)
        if self._config.enforce_eager:
            return [eager]
        kernels = self._platform.kernels
        if isinstance(forward.backend, CPUAttentionBackend):
            return [RecordedStep(forward, kernels), eager]
        if not self._captures(forward.backend):
            return [eager]
        pool = GraphPool(self._platform.device)
        max_model_len = self._config.scheduler.max_model_len
        operations = sum(self.cost().layer_operations.values())
        prompt = CapturedPrompt(forward, pool, max_model_len=max_model_len, operations_per_token=operations)
        return [CapturedStep(forward, pool, kernels.sampling, max_model_len=max_model_len), prompt, eager]

    def _captures(self, backend: AttentionBackend) -> bool:
        return self._platform.device.type == "cuda" and backend.capturable and not self._config.enforce_eager

    def execute(self, batch: ScheduledBatch) -> LaunchedStep:
        with self._platform.computing():
            return self.runner.execute(batch)

    def sample(self, step: LaunchedStep, bitmask: GrammarBitmask | None) -> None:
        """Sample the tokens of a step that waits for its bitmask."""
        with self._platform.computing(), torch.inference_mode():
            step.sample(bitmask)

    def cost(self) -> ModelCost:
        """What the model asks of a machine."""
        assert self._cost is not None, "kv_capacity was not called"
        return self._cost

    def probe(self) -> MachineRates:
        """What the machine does at most, measured now."""
        with self._platform.computing():
            return self._platform.probe(self._dtype)

    def record_ahead(self) -> bool:
        """Get ready for one more size of step, while none is under way. False: there is nothing left to record."""
        with self._platform.computing():
            return self.runner.record_ahead()

    def reset(self) -> None:
        """Forget all requests, after a step that failed."""
        self.runner.reset()

    def _activations(
        self, backend: AttentionBackend, groups: tuple[KVGroupSpec, ...], block_shape: tuple[int, ...]
    ) -> int:
        """Bytes that the largest step needs beside weights and KV cache: measured on a GPU, estimated elsewhere."""
        scheduler, hf = self._config.scheduler, self._config.model.hf_config
        if self._platform.device.type == "cuda":
            measured = measure_activations(
                self.model,
                backend,
                groups,
                block_shape,
                self._cache_dtype,
                max_num_tokens=scheduler.max_num_batched_tokens,
                max_num_seqs=scheduler.max_num_seqs,
                device=self._platform.device,
            )
            return measured * (2 if self._captures(backend) else 1)  # graphs have memory of their own
        hidden = int(hf["hidden_size"])
        return activation_bytes(
            num_tokens=scheduler.max_num_batched_tokens,
            num_seqs=scheduler.max_num_seqs,
            hidden_size=hidden,
            widest=max(2 * int(hf.get("intermediate_size") or hf.get("ffn_dim") or hidden), hidden),
            vocab_size=self._config.model.vocab_size,
            element_size=self._dtype.itemsize,
        )

    def _needs(self, bytes_per_block: int, activations: int) -> MemoryNeeds:
        gc.collect()
        memory = self._platform.memory()
        tensors = {t.data_ptr(): t.nbytes for t in [*self.model.parameters(), *self.model.buffers()]}
        packed = sum(layer.packed_bytes for layer in self.model.modules() if isinstance(layer, Layer))
        return MemoryNeeds(
            total=memory.total,
            available=memory.available,
            weights=sum(tensors.values()) + packed,
            activations=activations,
            bytes_per_block=bytes_per_block,
        )

    def _allocate(self, shape: tuple[int, ...], groups: tuple[KVGroupSpec, ...]) -> list[Tensor]:
        """One tensor per place in a group; each layer gets the one of its place."""
        places = [self._platform.zeros(shape, self._cache_dtype) for _ in groups[0].layer_ids]
        by_layer = {layer_id: places[i] for group in groups for i, layer_id in enumerate(group.layer_ids)}
        return [by_layer[layer_id] for layer_id in range(len(by_layer))]
