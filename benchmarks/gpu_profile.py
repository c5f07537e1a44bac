"""How busy the GPU is while octavo works, and with what: `python benchmarks/gpu_profile.py MODEL [WORKLOAD ...]`.

MODEL is a folder with a config.json; weights are random. Workloads: single, prefill, mixed (those of gpu.md). Each is
run once as it is and once under torch's profiler, which notes kernels and copies of the device alone. Printed: tokens
per second, the share of the time from the first kernel to the last in which the device did something, the same for each
tenth of the run, and the kernels that took most.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from octavo import LLM, SamplingParams

TENTHS = 10


def requests(name: str, seed: int) -> list[tuple[int, int, float]]:
    """Tokens in, tokens out and temperature of each request."""
    rng = random.Random(seed)
    if name == "single":
        return [(128, 256, 0.0)]
    if name == "prefill":
        return [(2048, 1, 0.0)] * 32
    return [(rng.randint(100, 1024), rng.randint(100, 1024), 0.6) for _ in range(256)]


def run(llm: LLM, vocab_size: int, name: str, seed: int) -> tuple[int, float]:
    rng = random.Random(seed)
    work = requests(name, seed)
    prompts = [{"prompt_token_ids": [rng.randrange(1000, vocab_size - 1000) for _ in range(n)]} for n, _, _ in work]
    params = [
        SamplingParams(temperature=temperature, max_tokens=out, ignore_eos=True, detokenize=False)
        for _, out, temperature in work
    ]
    started = time.perf_counter()
    llm.generate(prompts, params, use_tqdm=False)
    return sum(n if name == "prefill" else out for n, out, _ in work), time.perf_counter() - started


def intervals(profiled: profile) -> list[tuple[int, int, str]]:
    """Begin and end (ns) of all that ran on the device, in the order of their begin."""
    results = profiled.profiler.kineto_results  # type: ignore[union-attr]
    found = [
        (event.start_ns(), event.start_ns() + event.duration_ns(), event.name())
        for event in results.events()
        if "CUDA" in str(event.device_type())
    ]
    return sorted(found)


def summarize(found: list[tuple[int, int, str]]) -> None:
    first, last = found[0][0], max(end for _, end, _ in found)
    width = (last - first) / TENTHS
    busy = [0.0] * TENTHS
    reached = first
    for start, end, _ in found:
        start = max(start, reached)
        reached = max(reached, end)
        while start < end:  # a kernel may lie in several tenths
            tenth = min(TENTHS - 1, int((start - first) / width))
            stop = end if tenth == TENTHS - 1 else min(end, first + int((tenth + 1) * width) + 1)
            busy[tenth] += stop - start
            start = stop
    print(f"  busy {sum(busy) / (last - first):.1%} of {(last - first) / 1e6:.1f} ms, {len(found)} kernels and copies")
    print("  by tenths:", " ".join(f"{share / width:.0%}" for share in busy))
    by_name: dict[str, list[int]] = defaultdict(list)
    for start, end, name in found:
        by_name[name].append(end - start)
    total = sum(end - start for start, end, _ in found)
    rows = sorted(by_name.items(), key=lambda row: -sum(row[1]))
    for name, times in rows[:24]:
        print(f"  {sum(times) / total:6.1%} {sum(times) / 1e6:9.2f} ms {len(times):7d} x {name[:90]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("workloads", nargs="*", default=["single", "prefill", "mixed"])
    parser.add_argument("--args", default="{}", help="more arguments of LLM, as JSON")
    options = parser.parse_args()
    vocab_size = json.loads((Path(options.model) / "config.json").read_text())["vocab_size"]
    arguments = {"load_format": "dummy", "skip_tokenizer_init": True, "max_model_len": 4096}
    started = time.perf_counter()
    llm = LLM(options.model, **(arguments | json.loads(options.args)))
    print(f"ready after {time.perf_counter() - started:.1f} s")
    for name in options.workloads:
        run(llm, vocab_size, name, 1)
        tokens, seconds = run(llm, vocab_size, name, 2)
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            _, profiled_seconds = run(llm, vocab_size, name, 3)
        print(f"{name}: {tokens / seconds:.0f} tok/s ({seconds:.3f} s; profiled {profiled_seconds:.3f} s)")
        summarize(intervals(profiled))


if __name__ == "__main__":
    main()
