"""Offline throughput of octavo on this machine, and optionally of transformers on the same work, in one run.

    python benchmarks/offline.py [--model MODEL] [--dtype DTYPE] [--quantization NAME] [--workloads NAME ...]
                                 [--peer transformers]

Prompts are random token ids with seeded lengths and no end-of-sequence, so that every engine does the same work. Each
figure is the median of three runs with different prompts. Prints Markdown; results worth keeping go to cpu.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

Prompts = list[list[int]]


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


def octavo_runner(model: str, dtype: str, quantization: str | None) -> tuple[Callable[[Prompts, int], None], int]:
    from octavo import LLM, SamplingParams

    llm = LLM(model, dtype=dtype, quantization=quantization, max_model_len=2048, use_tqdm_on_load=False)

    def run(prompts: Prompts, num_output: int) -> None:
        params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=num_output, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        assert all(len(output.outputs[0].token_ids) == num_output for output in outputs)

    run([[5] * 64], 8)
    return run, llm.get_tokenizer().vocab_size


def transformers_runner(model: str, dtype: str, quantization: str | None) -> tuple[Callable[[Prompts, int], None], int]:
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
    return run, reference.config.vocab_size


def report(name: str, work: Workload, whole: float, first: float) -> str:
    num_input = work.num_requests * work.num_input
    num_output = work.num_requests * work.num_output
    if name == "cpu-single":
        figure = f"{(num_output - 1) / (whole - first):.1f} decode tok/s"
    elif name == "cpu-prefill":
        figure = f"{num_input / whole:.0f} prompt tok/s"
    else:
        figure = f"{num_output / whole:.1f} output tok/s"
    return f"| `{name}`: {work.what} | {figure} | {whole:.2f} |"


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

    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "python": platform.python_version()}
    print(f"model {args.model}, {args.dtype}, quantization {args.quantization}; {json.dumps(facts)}")
    runners = {"octavo": octavo_runner} | ({args.peer: transformers_runner} if args.peer else {})
    for engine, make in runners.items():
        run, vocab_size = make(args.model, args.dtype, args.quantization)
        print(f"\n| {engine} | result | seconds |\n|---|---|---|", flush=True)
        for name in args.workloads:
            whole, first = measure(run, WORKLOADS[name], vocab_size)
            print(report(name, WORKLOADS[name], whole, first), flush=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"\npeak memory of the process so far: {peak:.2f} GiB", flush=True)
    if not args.no_start_up:
        start_up(args.model, args.dtype)


if __name__ == "__main__":
    main()
