"""The attention backends of other people's packages on a real GPU, against plain torch in float32 and TRITON_ATTN."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from engine_case import Answers, make_llama
from paged_case import Heads, PagedCase, through_backend
from torch import Tensor

from octavo.attention.base import AttentionBackend, AttentionMetadata
from octavo.attention.flash_attn import FlashAttentionBackend
from octavo.attention.flashinfer import FlashInferBackend
from octavo.attention.triton_attn import TritonAttentionBackend

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

KINDS = [TritonAttentionBackend, FlashInferBackend, FlashAttentionBackend]
BOUND = 3e-2
MIXED = [(6, 1), (0, 190), (120, 50), (333, 1), (16, 16), (0, 1), (512, 129), (5, 2)]
DECODE = [(0, 1), (15, 1), (16, 1), (700, 1), (63, 1), (64, 1), (129, 1)]
BASE = Heads(8, 2, 128, dtype=torch.bfloat16, scale=0.09)
LAYERS = {
    "group-4": BASE,
    "group-1": replace(BASE, num_heads=4, num_kv_heads=4),
    "group-7": replace(BASE, num_heads=14),
    "group-16": replace(BASE, num_heads=16, num_kv_heads=1),
    "window": replace(BASE, sliding_window=100),
    "soft-cap": replace(BASE, soft_cap=7.0),
    "blocks-of-256": replace(BASE, block_size=256),
}


def backend_for(kind: type[AttentionBackend], heads: Heads) -> AttentionBackend:
    reason = kind.declines(heads.spec(), torch.device("cuda"), None)
    if reason is not None:
        pytest.skip(f"{kind.name}: {reason}")
    return kind([heads.spec()], None)


def metadata_of(case: PagedCase, *, on_host: bool, max_seq_len: int | None = None) -> AttentionMetadata:
    """`on_host`: the host knows the lengths too, as in the engine."""
    lengths = {"host_starts": case.batch["query_start_loc"].cpu(), "host_lens": case.batch["seq_lens"].cpu()}
    return AttentionMetadata(
        **case.batch,
        slot_mapping=torch.full((len(case.q),), -1, device="cuda"),
        num_reqs=len(case.lengths) + case.padding,
        num_tokens=len(case.q),
        max_query_len=max(new for _, new in case.lengths),
        max_seq_len=max_seq_len or max(map(sum, case.lengths)),
        causal=case.heads.causal,
        **(lengths if on_host else {}),
    )


def attend(backend: AttentionBackend, case: PagedCase, *, on_host: bool = True) -> Tensor:
    """Over the case's cache, in which the new tokens lie already; what was never written is zero, as in the engine."""
    heads = case.heads
    metadata = backend.build(metadata_of(case, on_host=on_host), heads.sliding_window or None)
    layer = LayerOf(heads)
    k = torch.zeros(len(case.q), heads.num_kv_heads, heads.head_dim, dtype=heads.dtype, device="cuda")
    return backend.forward(layer, case.q, k, k, case.kv_cache.nan_to_num(0.0), metadata)


class LayerOf:
    """What a backend reads of a layer."""

    def __init__(self, heads: Heads) -> None:
        self.num_heads, self.num_kv_heads, self.head_dim = heads.num_heads, heads.num_kv_heads, heads.head_dim
        self.scale, self.logits_soft_cap = heads.scale, heads.logits_soft_cap
        self.sliding_window = heads.sliding_window or None


@pytest.mark.parametrize("lengths", [MIXED, DECODE, [(0, 300)]], ids=["mixed", "decode", "prompt"])
@pytest.mark.parametrize("heads", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_against_plain_torch_and_triton(
    kind: type[AttentionBackend], heads: Heads, lengths: list[tuple[int, int]]
) -> None:
    backend, case = backend_for(kind, heads), PagedCase(heads, lengths, "cuda")
    ours, expected = attend(backend, case), case.expected()
    assert ours.dtype == heads.dtype
    assert (ours.float() - expected).abs().max() < BOUND
    triton = attend(TritonAttentionBackend([heads.spec()], None), case)
    assert (ours.float() - triton.float()).abs().max() < BOUND


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_steps_one_after_another(kind: type[AttentionBackend]) -> None:
    """Steps of any mix, none waited for: a plan is not overwritten while a step before it runs."""
    backend = backend_for(kind, BASE)
    draw = random.Random(3)
    cases = [
        PagedCase(
            BASE,
            [(draw.randint(0, 900), 1 if draw.random() < 0.6 else draw.randint(1, 80)) for _ in range(size)],
            "cuda",
        )
        for size in (1, 40, 3, 64, 17, 2, 90, 1)
    ]
    # Each step is planned when the one before the last is done, as in the engine.
    results, events = [], []
    for case in cases:
        if len(events) > 1:
            events[-2].synchronize()
        results.append(attend(backend, case))
        events.append(torch.cuda.Event())
        events[-1].record()
    for case, result in zip(cases, results, strict=True):
        assert (result.float() - case.expected()).abs().max() < BOUND


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_lengths_may_be_known_to_the_device_alone(kind: type[AttentionBackend]) -> None:
    backend, case = backend_for(kind, BASE), PagedCase(BASE, MIXED, "cuda")
    assert torch.equal(attend(backend, case, on_host=False), attend(backend, case))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_writes_what_it_attends_to(kind: type[AttentionBackend]) -> None:
    backend_for(kind, BASE)
    case = PagedCase(BASE, [(0, 40), (0, 1), (0, 23)], "cuda")
    assert (through_backend(case, kind).float() - case.expected()).abs().max() < BOUND


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_graph_serves_other_lengths_than_it_was_captured_with(kind: type[AttentionBackend]) -> None:
    backend = backend_for(kind, BASE)
    if not backend.capturable:
        pytest.skip(f"{kind.name} is not captured")
    case = PagedCase(BASE, [(900, 1), (31, 1), (0, 1)], "cuda", padding=2)
    metadata = metadata_of(case, on_host=False, max_seq_len=4096)
    cache, layer = case.kv_cache.nan_to_num(0.0), LayerOf(BASE)
    k = torch.zeros(len(case.q), BASE.num_kv_heads, BASE.head_dim, dtype=BASE.dtype, device="cuda")

    def run() -> Tensor:
        return backend.forward(layer, case.q, k, k, cache, backend.build(metadata, None))

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    for lengths in ([901, 32, 1], [894, 25, 1], [401, 7, 1]):
        case.batch["seq_lens"][:3].copy_(torch.tensor(lengths, dtype=torch.int32, device="cuda"))
        out.fill_(float("nan"))
        graph.replay()
        for row, length in enumerate(lengths):
            k_row, v_row = case.keys[row][:length].float().to("cuda").repeat_interleave(4, 2).unbind(1)
            weights = (torch.einsum("hd,khd->hk", case.q[row].float(), k_row) * BASE.scale).softmax(-1)
            expected = torch.einsum("hk,khd->hd", weights, v_row)
            assert (out[row].float() - expected).abs().max() < BOUND
        assert out[3:].isfinite().all()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def by_triton(llama: str) -> Answers:
    return Answers(llama, gpu_memory_utilization=0.2, attention_backend="TRITON_ATTN")


@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind.name)
def test_the_engine_says_the_same(kind: type[AttentionBackend], llama: str, by_triton: Answers) -> None:
    """Prompts and decode steps, run ahead as in serving: differences are those of bfloat16."""
    backend_for(kind, replace(BASE, num_heads=8, num_kv_heads=2))
    answers = Answers(llama, gpu_memory_utilization=0.2, attention_backend=kind.name)
    differences, agreed = answers.differences(by_triton), answers.agreed(by_triton)
    print(f"{kind.name}: mean {differences.mean():.4f}, most {differences.max():.4f}, tokens agreed {agreed}")
    assert differences.mean() < 0.06
    assert sum(agreed) >= 3 * len(agreed)
