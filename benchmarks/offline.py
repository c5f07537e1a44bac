"""Offline throughput of octavo on this machine, and optionally of transformers on the same work, in one run.

    python benchmarks/offline.py [--model MODEL] [--dtype DTYPE] [--quantization NAME] [--workloads NAME ...]
                                 [--peer transformers]

Prompts are random token ids with seeded lengths and no end-of-sequence, so that every engine does the same work. Each
figure is the median of three runs with different prompts; the peak is the most memory that the process had meanwhile.
Beside octavo's stand its floor on this machine and the share of it that was reached, and what a probe of the machine
found just before, whose own 256 MiB are not part of the peak. Prints Markdown; results worth keeping go to cpu.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Prompts = list[list[int]]


@dataclass(frozen=True)
class Engine:
    """What is measured: how it runs prompts up to a number of tokens each, and what there is to compare it with."""

    run: Callable[[Prompts, int], None]
    vocab_size: int
    bound: Callable[[Workload], tuple[float, str]] | None = None  # the floor in seconds, and the probe in words


@dataclass(frozen=True)
class Workload:
    what: str
    num_requests: int
    num_input: int
    num_output: int
    num_shared: int = 0  # tokens at the beginning of all prompts


WORKLOADS = {
    "cpu-single": Workload("decode of one stream, 128 in / 128 out", 1, 128, 128),
    "cpu-batch": Workload("64 requests, 128 in / 128 out", 64, 128, 128),
    "cpu-prefill": Workload("one prompt of 512, 1 out", 1, 512, 1),
    "cpu-prefix": Workload("64 requests that share 512 of 544 tokens, 16 out", 64, 544, 16, num_shared=512),
    "cpu-unshared": Workload("64 requests of 544 tokens, nothing shared, 16 out", 64, 544, 16),
}
COMMANDS = {
    "`octavo --help`": "from octavo.cli.main import main; main(['--help'])",
    "`import octavo`": "import octavo",
    "start to first token": (
        "from octavo import LLM, SamplingParams; "
        "LLM({model!r}, dtype={dtype!r}, use_tqdm_on_load=False)"
        ".generate('Hello', SamplingParams(max_tokens=1), use_tqdm=False)"
    ),
}


def make_prompts(work: Workload, seed: int, vocab_size: int) -> Prompts:
    rng = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [rng.randrange(1000, vocab_size - 1000) for _ in range(count)]

    shared = ids(work.num_shared)
    return [shared + ids(work.num_input - work.num_shared) for _ in range(work.num_requests)]


def measure(run: Callable[[Prompts, int], None], work: Workload, vocab_size: int) -> tuple[float, float]:
    """Median seconds of the work, and of the same work cut to one token each (other prompts)."""

    def seconds(seed: int, num_output: int) -> float:
        prompts = make_prompts(work, seed, vocab_size)
        started = time.perf_counter()
        run(prompts, num_output)
        return time.perf_counter() - started

    whole = statistics.median(seconds(seed, work.num_output) for seed in range(3))
    first = statistics.median(seconds(100 + seed, 1) for seed in range(3)) if work.num_requests == 1 else 0.0
    return whole, first


def octavo_engine(model: str, dtype: str, quantization: str | None) -> Engine:
    from octavo import LLM, SamplingParams
    from octavo.bench.floor import Requests
    from octavo.bench.offline import floor_of

    llm = LLM(model, dtype=dtype, quantization=quantization, max_model_len=2048, use_tqdm_on_load=False)

    def run(prompts: Prompts, num_output: int) -> None:
        params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=num_output, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        assert all(len(output.outputs[0].token_ids) == num_output for output in outputs)

    def bound(work: Workload) -> tuple[float, str]:
        requests = Requests(num_requests=work.num_requests, input_len=work.num_input, output_len=work.num_output)
        seconds, rates = floor_of(llm, requests)
        return seconds, rates.describe()

    run([[5] * 64], 8)
    return Engine(run, llm.get_tokenizer().vocab_size, bound)


def transformers_engine(model: str, dtype: str, quantization: str | None) -> Engine:
    """transformers' generate in batches of 32, the size at which it did best here."""
    import torch
    from transformers import AutoModelForCausalLM

    from octavo.loading.sources import fetch_model

    path = fetch_model(model)
    where = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = path.parent if where else path
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **where).eval()

    @torch.inference_mode()
    def run(prompts: Prompts, num_output: int) -> None:
        for start in range(0, len(prompts), 32):
            ids = torch.tensor(prompts[start : start + 32])
            reference.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=num_output,
                max_new_tokens=num_output,
                pad_token_id=0,
            )

    run([[5] * 64], 8)
    return Engine(run, reference.config.vocab_size)


def restart_peak() -> None:
    """Forget the most memory that this process has had (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """The most memory that this process has had since, in GiB."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**20


def report(name: str, work: Workload, whole: float, first: float, bound: tuple[float, str] | None) -> str:
    num_input = work.num_requests * work.num_input
    num_output = work.num_requests * work.num_output
    if name == "cpu-single":
        figure = f"{(num_output - 1) / (whole - first):.1f} decode tok/s"
    elif name == "cpu-prefill":
        figure = f"{num_input / whole:.0f} prompt tok/s"
    else:
        figure = f"{num_output / whole:.1f} output tok/s"
    floor, share, machine = "", "", ""
    if bound is not None:
        machine = bound[1]
        if not work.num_shared:  # the floor knows no shared prefixes
            floor, share = f"{bound[0]:.2f}", f"{100 * bound[0] / whole:.0f} %"
    return f"| `{name}`: {work.what} | {figure} | {whole:.2f} | {floor} | {share} | {peak():.2f} | {machine} |"


def start_up(model: str, dtype: str) -> None:
    print("\n| start-up | median of 5, s |\n|---|---|", flush=True)
    for name, code in COMMANDS.items():
        seconds = []
        for _ in range(5):
            command = [sys.executable, "-c", code.format(model=model, dtype=dtype) if "{model" in code else code]
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
        print(f"| {name} | {statistics.median(seconds):.2f} |", flush=True)


def main() -> None:
    from octavo.config import DEFAULT_MODEL

    parser = argparse.ArgumentParser(description="Offline throughput; prints Markdown.")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantization", help="octavo's argument; as the model is stored when left out")
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--peer", choices=["transformers"], help="measure this engine too, on the same work")
    parser.add_argument("--no-start-up", action="store_true", help="leave out the start-up times")
    args = parser.parse_args()
    import torch

    from octavo.platforms.select import current_platform

    facts = {"torch": torch.__version__, "device": current_platform().describe(), "python": platform.python_version()}
    print(f"model {args.model}, {args.dtype}, quantization {args.quantization}; {json.dumps(facts)}")
    makers = {"octavo": octavo_engine} | ({args.peer: transformers_engine} if args.peer else {})
    for title, make in makers.items():
        engine = make(args.model, args.dtype, args.quantization)
        print(
            f"\n| {title} | result | seconds | floor | reached | peak, GiB | machine before |\n" + "|---" * 7 + "|",
            flush=True,
        )
        for name in args.workloads:
            work = WORKLOADS[name]
            bound = engine.bound(work) if engine.bound else None
            restart_peak()
            whole, first = measure(engine.run, work, engine.vocab_size)
            print(report(name, work, whole, first, bound), flush=True)
    if not args.no_start_up:
        start_up(args.model, args.dtype)


if __name__ == "__main__":
    main()
