"""What structured outputs cost: throughput of a batch with a JSON schema on every request, and time to first token.

    python benchmarks/structured.py [--model MODEL] [--rounds N] [--what throughput ttft]

Throughput: `cpu-batch` (64 requests, 128 in / 128 out, greedy) without a schema and with one on every request, which
has room for 128 tokens. Two engines with the same prompts take turns, a step each, and the seconds of each one's turns
are counted: a machine that changes its speed by a tenth within seconds changes both.
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
import threading
import time
from collections import deque
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
from octavo.request import RequestUpdate
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


class Turns:
    """Lets runs in threads of their own go on in turn, a step each, and counts the seconds that each one had."""

    def __init__(self, names: Sequence[str]) -> None:
        self.seconds = dict.fromkeys(names, 0.0)
        self._line = deque(names)  # the first one's turn
        self._changed = threading.Condition()
        self._since = 0.0

    def wait(self, name: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._line[0] == name)
        self._since = time.perf_counter()

    def pass_on(self, name: str, *, last: bool = False) -> None:
        self.seconds[name] += time.perf_counter() - self._since
        with self._changed:
            self._line.popleft()
            if not last:
                self._line.append(name)
            self._changed.notify_all()


def in_turn(llms: dict[str, LLM], batch: list[list[int]]) -> tuple[dict[str, float], list[list[int]]]:
    """Output tokens per second of each kind, whose steps alternate; the tokens of the last kind."""
    turns = Turns([*llms])
    outputs: dict[str, list[list[int]]] = {}

    def run(name: str, llm: LLM) -> None:
        engine, step = llm._engine, llm._engine.step

        def step_in_turn() -> list[RequestUpdate]:
            turns.pass_on(name)
            turns.wait(name)
            return step()

        params = SamplingParams(temperature=0, max_tokens=128, ignore_eos=True, structured_outputs=KINDS[name])
        engine.step = step_in_turn  # type: ignore[method-assign]
        turns.wait(name)
        try:
            found = llm.generate(batch, params, use_tqdm=False)
            outputs[name] = [output.outputs[0].token_ids for output in found]
        finally:
            turns.pass_on(name, last=True)
            engine.step = step  # type: ignore[method-assign]

    threads = [threading.Thread(target=run, args=item) for item in llms.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rates = {name: sum(map(len, outputs[name])) / seconds for name, seconds in turns.seconds.items()}
    return rates, outputs[[*llms][-1]]


def throughput(model: str, rounds: int) -> None:
    llms = {name: LLM(model, use_tqdm_on_load=False) for name in KINDS}
    vocab_size = llms["schema"].config.model.vocab_size
    found: list[dict[str, float]] = []
    for index in range(rounds + 1):
        rates, token_ids = in_turn(llms, prompts(64, index, vocab_size))
        if index:  # the first round warms up
            found.append(rates)
    print("| 64 requests, 128 in / 128 out | output tok/s, median | of free text: median of rounds (least, most) |")
    print("|---|---|---|")
    for name in KINDS:
        shares = sorted(rates[name] / rates["free text"] for rates in found)
        middle, least, most = statistics.median(shares), shares[0], shares[-1]
        rate = statistics.median(rates[name] for rates in found)
        print(f"| {name} | {rate:.0f} | {middle:.1%} ({least:.1%}, {most:.1%}) |")
    masks(llms["schema"], token_ids)
    for llm in llms.values():
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
