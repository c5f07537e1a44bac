"""Threads of an LLM: as many as asked for, torch's own left alone, and none at work while nothing is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from octavo import LLM, SamplingParams
from octavo.errors import ConfigError
from octavo.kernels.cpu import CPUKernels
from octavo.models.llama import LlamaForCausalLM
from octavo.platforms.cpu import CpuPlatform

PARAMS = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)


def test_num_threads_reaches_the_kernels(make_llm: Callable[..., LLM]) -> None:
    cpus = len(os.sched_getaffinity(0))
    made = {number: CpuPlatform(number).kernels for number in {1, cpus}}
    for number, kernels in made.items():
        if isinstance(kernels, CPUKernels):
            assert kernels.team.num_threads == number
    with pytest.raises(ConfigError, match=f"num_threads is {cpus + 1}"):
        make_llm("llama", num_threads=cpus + 1)
    with make_llm("llama", num_threads=1) as llm:
        assert llm.config.num_threads == 1


def test_a_programs_own_torch_keeps_its_threads(make_llm: Callable[..., LLM], monkeypatch: pytest.MonkeyPatch) -> None:
    in_steps = set()
    compute_logits = LlamaForCausalLM.compute_logits

    def spy(self: LlamaForCausalLM, hidden: Tensor) -> Tensor:
        in_steps.add(torch.get_num_threads())
        return compute_logits(self, hidden)

    monkeypatch.setattr(LlamaForCausalLM, "compute_logits", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with make_llm("llama", num_threads=1) as llm:
            llm.generate([5, 6, 7], PARAMS, use_tqdm=False)
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert in_steps == {1}  # beside the team of the kernels, or the one that was asked for


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_an_idle_llm_takes_no_cpu_time(async_scheduling: bool, make_llm: Callable[..., LLM]) -> None:
    with make_llm("llama", async_scheduling=async_scheduling) as llm:
        llm.generate([[5, 6, 7], [8, 9]], PARAMS, use_tqdm=False)
        time.sleep(0.1)  # the team looks out for more work before it sleeps
        shares = []
        for _ in range(3):  # the least of three: what runs beside it in this process is not the LLM's
            before = time.process_time()
            time.sleep(1.0)
            shares.append(time.process_time() - before)
        assert min(shares) < 0.01
