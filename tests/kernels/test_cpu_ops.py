"""CPUKernels: the kernels that other tests do not reach, recordings and their arena, and the team of threads."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import torch
from all_kernels import BEST_KERNELS, CPP_KERNELS, needs_cpp_kernels
from gguf_blocks import quantize_q8_0, random_blocks
from torch import Tensor

from octavo.kernels import torch_ops
from octavo.kernels.cpu import CPUKernels, PagedCache

pytestmark = needs_cpp_kernels
every_isa = pytest.mark.parametrize("kernels", CPP_KERNELS.values(), ids=CPP_KERNELS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
WIDTHS = (1, 7, 15, 16, 17, 33, 100)
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


def close(got: Tensor, expected: Tensor) -> None:
    """Equal but for a rounding of the dtype."""
    assert got.dtype == expected.dtype
    rtol = 1e-5 if got.dtype == torch.float32 else 0.01
    torch.testing.assert_close(got, expected, rtol=rtol, atol=rtol)


def rows_apart(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """A matrix whose rows are columns of a wider one, from an odd place on."""
    return torch.randn(rows, width + 9).to(dtype)[:, 3 : 3 + width]


def on_a_team(kernels: CPUKernels, num_threads: int) -> CPUKernels:
    return CPUKernels(kernels.extension, num_threads, kernels.team.isa)


# ---- sums, rows of a table, angles, norms ----


@every_isa
@every_dtype
@pytest.mark.parametrize("width", WIDTHS)
def test_add_and_scale(kernels: CPUKernels, dtype: torch.dtype, width: int) -> None:
    x, y = rows_apart(5, width, dtype), torch.randn(5, width).to(dtype)
    assert torch.equal(kernels.add(x, y), torch_ops.add(x, y))
    assert torch.equal(kernels.add(y, x), torch_ops.add(y, x))
    close(kernels.scale(x, 0.37), torch_ops.scale(x, 0.37))
    assert kernels.add(x[:0], y[:0]).shape == (0, width)


@every_isa
@every_dtype
@pytest.mark.parametrize("width", WIDTHS)
def test_embedding(kernels: CPUKernels, dtype: torch.dtype, width: int) -> None:
    table = torch.randn(11, width).to(dtype)
    ids = torch.tensor([10, 0, 3, 3, 9, 10, 1])
    assert torch.equal(kernels.embedding(ids, table), torch_ops.embedding(ids, table))
    assert kernels.embedding(ids[:0], table).shape == (0, width)


@every_isa
@every_dtype
@pytest.mark.parametrize("half", [1, 8, 17, 64])
def test_rotary_angles_up_to_long_contexts(kernels: CPUKernels, dtype: torch.dtype, half: int) -> None:
    positions = torch.tensor([0, 1, 2, 4095, 4096, 65537, 131070, 131071])
    inv_freq = 10000.0 ** -(torch.arange(half) / half)
    ours, expected = (ops.rotary_angles(positions, inv_freq, 1.25, dtype) for ops in (kernels, torch_ops))
    for got, reference in zip(ours, expected, strict=True):
        assert got.shape == reference.shape == (8, 1, half)
        # One float32 rounding of the angle is common to both; cos and sin of it may differ in the last place.
        torch.testing.assert_close(got, reference, rtol=0, atol=1e-6 if dtype == torch.float32 else 2**-7)
    exact = (positions.double()[:, None] * inv_freq.double())[:, None, :]
    bound = 131071 * 2.0**-23 + (0 if dtype == torch.float32 else 2**-7)
    assert (ours[0].double() - 1.25 * exact.cos()).abs().max() < bound
    assert (ours[1].double() - 1.25 * exact.sin()).abs().max() < bound


@every_isa
@every_dtype
@pytest.mark.parametrize(("head_dim", "half"), [(16, 8), (24, 7), (64, 32), (80, 20)])
def test_rotation_of_columns_of_a_wider_tensor(
    kernels: CPUKernels, dtype: torch.dtype, head_dim: int, half: int
) -> None:
    qkv = torch.randn(5, 7 * head_dim + 3).to(dtype)
    x = qkv[:, head_dim : 4 * head_dim].view(5, 3, head_dim)
    cos, sin = torch_ops.rotary_angles(torch.arange(5) * 100, torch.rand(half), 1.0, dtype)
    rotated = torch_ops.rotary_embedding(x[..., : 2 * half], cos, sin)
    ours = kernels.rotary_embedding(x, cos, sin)
    torch.testing.assert_close(ours[..., : 2 * half], rotated, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.04)
    assert torch.equal(ours[..., 2 * half :], x[..., 2 * half :])


@every_isa
@every_dtype
@pytest.mark.parametrize("width", WIDTHS)
def test_norms_of_rows_and_of_groups(kernels: CPUKernels, dtype: torch.dtype, width: int) -> None:
    weight, bias = torch.randn(2, width).to(dtype)
    inputs = [
        rows_apart(5, width, dtype),
        torch.randn(5, 3, width).to(dtype),
        torch.randn(5, 5 * width + 1).to(dtype)[:, width : 4 * width].view(5, 3, width),  # heads beside others
    ]
    for x in inputs:
        wide = x.double()
        rms = wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        layer = torch.nn.functional.layer_norm(wide, (width,), weight.double(), bias.double(), 1e-5)
        close(kernels.rms_norm(x, weight, 1e-5), (rms * weight.double()).to(dtype))
        close(kernels.gemma_rms_norm(x, weight, 1e-5), (rms * (1 + weight.double())).to(dtype))
        close(kernels.layer_norm(x, weight, bias, 1e-5), layer.to(dtype))


@every_isa
@every_dtype
@pytest.mark.parametrize("name", ["silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul", "relu", "gelu"])
def test_activations(kernels: CPUKernels, dtype: torch.dtype, name: str) -> None:
    for width in WIDTHS:
        x = rows_apart(3, 2 * width, dtype) * 4
        x[0, 0] = 200.0
        x[1, 0] = -200.0
        expected = getattr(torch_ops, name)(x.float()).to(dtype)
        torch.testing.assert_close(getattr(kernels, name)(x), expected, rtol=0.01, atol=2e-5)


@every_isa
@every_dtype
@pytest.mark.parametrize(("n", "k"), [(1, 1), (17, 31), (48, 32), (50, 33), (97, 100)])
def test_linear_of_odd_sizes(kernels: CPUKernels, dtype: torch.dtype, n: int, k: int) -> None:
    weight, bias = rows_apart(n, k, dtype), torch.randn(n).to(dtype)
    linear = kernels.pack_linear(weight, bias, float_output=True)
    for rows in (0, 1, 2, 7, 9, 257):
        x = rows_apart(rows, k, dtype)
        close(linear(x), x.float() @ weight.float().T + bias.float())


def weights_of_many_sizes() -> list[Tensor]:
    """Small ones, which share memory when they are packed, and one that has its own."""
    return [torch.randn(33 + 40 * i, 64 + 8 * i) / (64 + 8 * i) ** 0.5 for i in range(60)] + [torch.randn(10_000, 1000)]


def test_packed_matrices_outlive_each_other() -> None:
    weights = weights_of_many_sizes()
    linears = [BEST_KERNELS.pack_linear(weight, None) for weight in weights]
    del linears[::2]
    for linear, weight in zip(linears, weights[1::2], strict=True):
        x = torch.randn(2, weight.shape[1])
        close(linear(x), x @ weight.T)


def test_memory_of_packed_matrices_is_given_back() -> None:
    weights, process = weights_of_many_sizes(), psutil.Process()
    before = process.memory_info().rss
    linears = [BEST_KERNELS.pack_linear(weight, None) for weight in weights]
    held = process.memory_info().rss - before
    assert held >= sum(weight.nbytes for weight in weights)
    del linears
    assert process.memory_info().rss - before < held / 4


@every_isa
@every_dtype
@pytest.mark.parametrize("gate", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("half", [1, 47, 48, 101])
def test_gates(kernels: CPUKernels, dtype: torch.dtype, half: int, gate: str) -> None:
    """Of plain weights and of quantized ones, against their products without a gate."""
    weight, bias = torch.randn(2 * half, 64) / 8, torch.randn(2 * half)
    blocks = quantize_q8_0(weight)
    shards = [(blocks[:half], "Q8_0"), (blocks[half:], "Q8_0")]
    mixed = [(blocks[:half], "Q8_0"), (random_blocks("Q4_1", half, 64), "Q4_1")]
    norm = torch.rand(64).to(dtype), 1e-5
    for pack in (
        lambda **options: kernels.pack_linear(weight.to(dtype), bias, **options),
        lambda **options: kernels.pack_int8(weight, bias, **options),
        lambda **options: kernels.pack_blocks(shards, 64, bias, **options),
        lambda **options: kernels.pack_blocks(mixed, 64, bias, **options),
    ):
        plain, gated = pack(float_output=True), pack(gate=gate)
        for rows in (0, 1, 2, 9, 300):
            x = rows_apart(rows, 64, dtype)
            expected = getattr(torch_ops, f"{gate}_and_mul")(plain(x, norm=norm))
            torch.testing.assert_close(
                gated(x, norm=norm).float(), expected, rtol=0.02, atol=0.02 if dtype is torch.bfloat16 else 1e-4
            )


@every_isa
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_a_row_is_the_same_in_whatever_block(kernels: CPUKernels, num_threads: int) -> None:
    """Many rows are cut into blocks, by their number and that of the team's members."""
    team = on_a_team(kernels, num_threads)
    weight = torch.randn(2 * 50, 64) / 8
    packed = (
        team.pack_linear(weight.bfloat16(), None, gate="silu"),
        team.pack_int8(weight, None),
        team.pack_blocks([(random_blocks("Q4_1", 100, 64), "Q4_1")], 64, None, gate="silu"),
    )
    x = torch.randn(1030, 64).bfloat16()
    for linear in packed:
        whole = torch.cat([linear(x[i : i + 10]) for i in range(0, 1030, 10)])
        for rows in (255, 256, 383, 384, 511, 513, 767, 1020, 1030):
            assert torch.equal(linear(x[:rows]), whole[:rows]), rows


@every_isa
@every_dtype
def test_a_sum_with_a_residual_leaves_what_is_beside_it(kernels: CPUKernels, dtype: torch.dtype) -> None:
    weight, bias = torch.randn(50, 64) / 8, torch.randn(50)
    for linear in (kernels.pack_linear(weight.to(dtype), bias), kernels.pack_int8(weight, bias), q8_0(kernels, weight)):
        for rows in (1, 2, 9, 300):
            x, wide = rows_apart(rows, 64, dtype), torch.randn(rows, 54).to(dtype)
            before, residual = wide.clone(), wide[:, 1:51]
            expected = before[:, 1:51].float() + linear(x.float() if dtype is torch.float32 else x).float()
            assert linear(x, residual=residual) is residual
            torch.testing.assert_close(
                residual.float(), expected, rtol=0.02, atol=0.02 if dtype is torch.bfloat16 else 1e-5
            )
            assert torch.equal(wide[:, 0], before[:, 0])
            assert torch.equal(wide[:, 51:], before[:, 51:])


@every_isa
@every_dtype
@pytest.mark.parametrize("largest", [1e-45, 1e-38, 1e36])
def test_int8_of_numbers_near_the_ends_of_float(kernels: CPUKernels, dtype: torch.dtype, largest: float) -> None:
    """Rows too small for the inverse of their scale to be a float count as nothing, beside rows as large as can be."""
    weight = torch.full((2, 48), largest).to(dtype)
    weight[1] = 1.0
    y = kernels.pack_int8(weight, None, float_output=True)(torch.full((3, 48), 0.5, dtype=dtype))
    torch.testing.assert_close(y[:, 0].double(), (24 * weight[0, 0].double()).expand(3), rtol=0.02, atol=1e-36)
    torch.testing.assert_close(y[:, 1], torch.full((3,), 24.0), rtol=0.02, atol=0)


@every_isa
def test_long_int8_rows(kernels: CPUKernels) -> None:
    """Their sums are larger than 32 bits hold."""
    length = 2**18
    x = torch.ones(2, length)
    x[1] = -1.0
    y = kernels.pack_int8(torch.ones(1, length), None)(x)
    torch.testing.assert_close(y, torch.tensor([[262144.0], [-262144.0]]), rtol=1e-4, atol=0)


@every_isa
def test_a_row_that_is_not_finite_leaves_the_others_as_they_are(kernels: CPUKernels) -> None:
    """Of quantized products too, whose sums are integers."""
    weight = torch.randn(50, 96)
    x = torch.randn(9, 96)
    spoilt = x.clone()
    spoilt[2], spoilt[4, 5], spoilt[7, 90] = NAN, INF, -INF
    good = [0, 1, 3, 5, 6, 8]
    for linear in (kernels.pack_linear(weight, None), kernels.pack_int8(weight, None), q8_0(kernels, weight)):
        assert torch.equal(linear(spoilt)[good], linear(x)[good])


def q8_0(kernels: CPUKernels, weight: Tensor) -> Any:
    """The product with `weight` in Q8_0 blocks of 32: an fp16 scale, then 32 int8."""
    linear = kernels.pack_blocks([(quantize_q8_0(weight), "Q8_0")], weight.shape[1], None)
    assert linear is not None
    return linear


# ---- a small model: recordings, teams, threads ----


class TinyStep:
    """One step over every kind of kernel, with weights of its own and buffers for its inputs."""

    num_heads, num_kv_heads, head_dim, block_size, width = 4, 2, 16, 16, 64

    def __init__(self, kernels: CPUKernels, dtype: torch.dtype, max_rows: int) -> None:
        torch.manual_seed(7)
        self.kernels, self.dtype = kernels, dtype
        self.ids = torch.randint(0, 30, (max_rows,))
        self.positions, self.slots = torch.arange(max_rows), torch.arange(max_rows)
        self.query_start_loc = torch.arange(max_rows + 1, dtype=torch.int32)
        self.seq_lens = torch.arange(1, max_rows + 1, dtype=torch.int32)
        num_blocks = -(-max_rows // self.block_size)
        self.table = torch.arange(num_blocks, dtype=torch.int32).repeat(max_rows, 1)
        pages = torch.zeros(num_blocks, self.num_kv_heads, 2, self.block_size * self.head_dim, dtype=dtype)
        self.cache = PagedCache(pages, self.num_kv_heads, self.head_dim, self.block_size)
        self.embedding = torch.randn(30, self.width).to(dtype)
        self.norm = torch.rand(self.width).to(dtype)
        self.head_norm = torch.rand(self.head_dim).to(dtype)
        self.inv_freq = torch.rand(self.head_dim // 2)
        self.qkv = kernels.pack_linear(torch.randn(128, self.width).to(dtype) / 8, torch.randn(128))
        self.out = kernels.pack_int8(torch.randn(self.width, self.width).to(dtype) / 8, None)
        up = quantize_q8_0(torch.randn(192, self.width) / 8)
        self.up = kernels.pack_blocks([(up[:96], "Q8_0"), (up[96:], "Q8_0")], self.width, None, gate="silu")
        self.down = kernels.pack_linear(torch.randn(self.width, 96).to(dtype) / 8, None)
        self.head = kernels.pack_linear(torch.randn(33, self.width).to(dtype), None, float_output=True)

    def run(self, rows: int) -> Tensor:
        ops, size = self.kernels, self.num_heads * self.head_dim
        residual = ops.scale(ops.embedding(self.ids[:rows], self.embedding), 0.5)
        qkv = self.qkv(ops.rms_norm(residual, self.norm, 1e-6))
        q = qkv[:, :size].view(rows, self.num_heads, self.head_dim)
        k, v = qkv[:, size:].view(rows, 2, self.num_kv_heads, self.head_dim).unbind(1)
        cos, sin = ops.rotary_angles(self.positions[:rows], self.inv_freq, 1.0, self.dtype)
        q = ops.rotary_embedding(ops.rms_norm(q, self.head_norm, 1e-6), cos, sin)
        ops.cache_write(self.cache, ops.rotary_embedding(k, cos, sin), v, self.slots[:rows])
        x = ops.paged_attention(
            self.cache,
            q,
            query_start_loc=self.query_start_loc[: rows + 1],
            seq_lens=self.seq_lens[:rows],
            block_table=self.table[:rows],
            scale=0.25,
            soft_cap=0.0,
            sliding_window=0,
            causal=True,
        )
        residual = self.out(x.view(rows, size), residual=residual)
        return self.head(ops.add(self.down(ops.relu(self.up(residual, norm=(self.norm, 1e-6)))), residual))


@every_isa
@every_dtype
def test_a_replay_is_what_eager_calls_are(kernels: CPUKernels, dtype: torch.dtype) -> None:
    step, eager = TinyStep(kernels, dtype, 20), TinyStep(on_a_team(kernels, 3), dtype, 20)
    recording = kernels.record(lambda: step.run(20), 20)
    assert recording.num_calls == 17
    assert not recording.result.any()  # nothing ran
    for rows in (20, 7, 1, 2, 19):
        step.ids[:rows] = eager.ids[:rows] = torch.randint(0, 30, (rows,))
        recording.result.fill_(7.0)
        recording.replay(rows, rows)
        assert torch.equal(recording.result[:rows], eager.run(rows))
        assert torch.equal(recording.result[rows:], torch.full((20 - rows, 33), 7.0))
    recording.replay(0, 0)
    with pytest.raises(ValueError, match="at most"):
        recording.replay(21, 1)


@every_isa
def test_after_a_recording_calls_run_again(kernels: CPUKernels) -> None:
    def fails() -> Tensor:
        kernels.relu(torch.ones(2, 2))
        raise RuntimeError("the model")

    with pytest.raises(RuntimeError, match="the model"):
        kernels.record(fails, 2)
    assert torch.equal(kernels.relu(torch.ones(2, 2)), torch.ones(2, 2))


@every_isa
def test_the_arena_lends_again_what_is_free_and_nothing_else(kernels: CPUKernels) -> None:
    x = torch.randn(4, 8)
    addresses: list[int] = []

    def forward() -> Tensor:
        first = kernels.scale(x, 2.0)
        view = first[:, :4]  # keeps it
        addresses.append(first.data_ptr())
        del first
        second = kernels.scale(x, 3.0)
        addresses.append(second.data_ptr())
        del view
        third = kernels.scale(x, 4.0)
        addresses.append(third.data_ptr())
        del second
        other_size = kernels.relu(x[:, :5])
        addresses.append(other_size.data_ptr())
        return kernels.add(third, kernels.scale(x, 5.0))

    recording = kernels.record(forward, 4)
    first, second, third, other_size = addresses
    assert second != first
    assert third == first
    assert other_size not in (first, second)
    gc.collect()
    recording.replay(4, 1)
    torch.testing.assert_close(recording.result, 9.0 * x)


@every_isa
@every_dtype
def test_teams_of_any_size_give_equal_bits(kernels: CPUKernels, dtype: torch.dtype) -> None:
    one, two, three = (TinyStep(on_a_team(kernels, num_threads), dtype, 37) for num_threads in (1, 2, 3))
    for rows in (37, 5, 1):
        expected = one.run(rows)
        assert torch.equal(two.run(rows), expected)
        assert torch.equal(three.run(rows), expected)


@every_isa
def test_two_python_threads_share_a_team(kernels: CPUKernels) -> None:
    steps = [TinyStep(kernels, torch.float32, 10 + 7 * i) for i in range(2)]
    expected = [step.run(len(step.ids)) for step in steps]

    def work(i: int) -> bool:
        return all(torch.equal(steps[i].run(10 + 7 * i), expected[i]) for _ in range(30))

    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(work, range(2)))


@every_isa
def test_replays_and_calls_from_two_threads(kernels: CPUKernels) -> None:
    step, eager = TinyStep(kernels, torch.float32, 12), TinyStep(kernels, torch.float32, 12)
    recording = kernels.record(lambda: step.run(12), 12)
    expected = eager.run(12)

    def replays() -> bool:
        for _ in range(30):
            recording.replay(12, 12)
            if not torch.equal(recording.result, expected):
                return False
        return True

    def calls() -> bool:
        return all(torch.equal(eager.run(12), expected) for _ in range(30))

    with ThreadPoolExecutor(2) as threads:
        jobs: list[Callable[[], bool]] = [replays, calls]
        assert all(threads.map(lambda job: job(), jobs))


def test_a_team_without_work_sleeps() -> None:
    kernels = on_a_team(next(iter(CPP_KERNELS.values())), 3)
    x = torch.randn(4, 64)
    for _ in range(50):
        kernels.relu(x)
    time.sleep(0.05)  # members look out for more work before they sleep
    before = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - before < 0.02
    assert torch.equal(kernels.relu(x), x.relu())


def test_a_team_that_never_worked_ends() -> None:
    kernels = on_a_team(next(iter(CPP_KERNELS.values())), 3)
    assert kernels.team.num_threads == 3
    del kernels
    gc.collect()
    with pytest.raises(ValueError, match="num_threads"):
        on_a_team(next(iter(CPP_KERNELS.values())), 0)
