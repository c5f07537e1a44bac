"""What structured outputs cost: throughput of a batch with a JSON schema on every request, and time to first token.

    python benchmarks/structured.py [--model MODEL] [--rounds N] [--what throughput ttft]

Throughput: `cpu-batch` (64 requests, 128 in / 128 out, greedy) without a schema, with one on every request, and again,
round by round, so that a machine that changes its speed changes all of them. The schema has room for 128 tokens.
Time to first token: through the engine process, as a server has it, of one prompt of 128 tokens: free, with a schema of
5 kB that is new each time, and with one that was seen. Prints Markdown; results worth keeping go to structured.md.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from octavo import LLM, EngineArgs, SamplingParams, StructuredOutputsParams
from octavo.config import DEFAULT_MODEL
from octavo.engine.async_engine import AsyncEngine
from octavo.engine.grammars import vocabulary_of
from octavo.engine.remote import EngineProcess
from octavo.platforms.select import current_platform
from octavo.structured.compiler import GrammarCompiler

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
        "role": {"enum": ["admin", "editor", "reader"]},
        "notes": {"type": "string"},
        "scores": {"type": "array", "items": {"type": "number"}, "maxItems": 4},
    },
    "required": ["name", "age", "email", "role", "notes", "scores"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": PERSON, "minItems": 40}
KINDS: dict[str, StructuredOutputsParams | None] = {
    "free text": None,
    "schema": StructuredOutputsParams(json=SCHEMA),
}


def prompts(num: int, seed: int, vocab_size: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1000, vocab_size - 1000) for _ in range(128)] for _ in range(num)]


def throughput(model: str, rounds: int) -> None:
    llm = LLM(model, use_tqdm_on_load=False)
    rates: dict[str, list[float]] = {name: [] for name in KINDS}
    for index in range(rounds + 1):
        for name, structure in KINDS.items():
            params = SamplingParams(temperature=0, max_tokens=128, ignore_eos=True, structured_outputs=structure)
            batch = prompts(64, index, llm.config.model.vocab_size)
            started = time.perf_counter()
            outputs = llm.generate(batch, params, use_tqdm=False)
            seconds = time.perf_counter() - started
            if index:  # the first round warms up
                rates[name].append(sum(len(output.outputs[0].token_ids) for output in outputs) / seconds)
    print("| 64 requests, 128 in / 128 out | output tok/s, median (best) | of free text, median of rounds |")
    print("|---|---|---|")
    for name, found in rates.items():
        shares = [rate / free for rate, free in zip(found, rates["free text"], strict=True)]
        print(f"| {name} | {statistics.median(found):.0f} ({max(found):.0f}) | {statistics.median(shares):.1%} |")
    masks(llm, [output.outputs[0].token_ids for output in outputs])
    llm.shutdown()


def masks(llm: LLM, token_ids: list[list[int]]) -> None:
    """The parts: one mask of a request on the host, and a batch of masks applied to logits."""
    tokenizer, vocab_size = llm.get_tokenizer(), llm.config.model.vocab_size
    compiler = GrammarCompiler(lambda: vocabulary_of(tokenizer, llm.config.model))
    prototype = compiler.compile(StructuredOutputsParams(json=SCHEMA))
    words = np.zeros((len(token_ids), -(-vocab_size // 32)), np.int32)
    micros = []
    for row, ids in enumerate(token_ids):
        matcher = prototype.copy()
        for token_id in ids:
            started = time.thread_time()
            matcher.fill(words[row])
            matcher.consume(token_id)
            micros.append(1e6 * (time.thread_time() - started))
    kernels = current_platform(None).kernels.sampling
    logits, rows = torch.randn(len(token_ids), vocab_size), torch.arange(len(token_ids))
    applied = []
    for _ in range(20):
        started = time.perf_counter()
        kernels.apply_bitmask_(logits, rows, torch.from_numpy(words))
        applied.append(1e3 * (time.perf_counter() - started))
    print(
        f"\nOne mask: {statistics.mean(micros):.0f} µs on average, {statistics.median(micros):.0f} median, "
        f"{sorted(micros)[len(micros) * 99 // 100]:.0f} at the 99th percentile. "
        f"{len(rows)} masks applied: {statistics.median(applied):.2f} ms."
    )


def large_schema(seed: int) -> dict[str, Any]:
    """A schema of about 5 kB, a different one for each seed."""
    properties = {}
    for index in range(12):
        person = json.loads(json.dumps(PERSON))
        person["properties"]["name"]["description"] = f"number {seed} {index}"
        properties[f"person_{index}"] = person
    return {"type": "object", "properties": properties, "required": [*properties], "title": str(seed)}


async def ttft(model: str, rounds: int) -> None:
    engine = await AsyncEngine.start(EngineProcess.start(EngineArgs(model=model)))

    async def seconds(seed: int, structure: StructuredOutputsParams | None) -> float:
        (ids,) = prompts(1, seed, engine.model_config.vocab_size)
        params = SamplingParams(temperature=0, max_tokens=1, structured_outputs=structure)
        prompt = engine.inputs.prompt(ids)
        started = time.perf_counter()
        async for _ in engine.generate(str(seed), prompt, params):
            return time.perf_counter() - started
        raise AssertionError

    seen = StructuredOutputsParams(json=large_schema(-1))
    first = await seconds(-1, seen)
    seeds = itertools.count()
    found: dict[str, list[float]] = {"free text": [], "a new schema of 5 kB": [], "a schema that was seen": []}
    for index in range(rounds):
        new = StructuredOutputsParams(json=large_schema(index))
        for times, structure in zip(found.values(), (None, new, seen), strict=True):
            times.append(await seconds(next(seeds), structure))
    await engine.close()
    size = len(json.dumps(large_schema(0)))
    print(f"\n| time to first token, schema of {size} bytes | median, ms | worst, ms |")
    print("|---|---|---|")
    for name, times in found.items():
        print(f"| {name} | {1e3 * statistics.median(times):.1f} | {1e3 * max(times):.1f} |")
    print(f"| the first schema of a server (the vocabulary is read) | {1e3 * first:.1f} | |")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--what", nargs="+", choices=["throughput", "ttft"], default=["throughput", "ttft"])
    options = parser.parse_args(argv)
    if "throughput" in options.what:
        throughput(options.model, options.rounds)
    if "ttft" in options.what:
        asyncio.run(ttft(options.model, 10 * options.rounds))


if __name__ == "__main__":
    main()
