"""How many greedy answers are the same in another dtype or on another device: 32 everyday prompts, none of them chosen.

    python benchmarks/gpu_agreement.py --model MODEL --dtype float32 --save FILE     (here, or on a CPU)
    python benchmarks/gpu_agreement.py --model MODEL --dtype bfloat16 --compare FILE

The answers have 32 tokens. Printed: how many are equal to those of FILE in all tokens, and after how many tokens the
others part from theirs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from octavo import LLM, SamplingParams

NUM_TOKENS = 32
PROMPTS = [
    f"{question} {subject}?"
    for question in ("What is", "Who needs", "Where do people find", "Why should a child know about")
    for subject in ("bread", "the moon", "a library", "rain", "money", "a bicycle", "salt", "the sea")
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--args", default="{}", help="more arguments of LLM, as JSON")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--compare", type=Path)
    options = parser.parse_args()
    arguments = {"max_model_len": 512, "enable_prefix_caching": False, "use_tqdm_on_load": False}
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    with LLM(options.model, dtype=options.dtype, **(arguments | json.loads(options.args))) as llm:
        answers = [list(output.outputs[0].token_ids) for output in llm.generate(PROMPTS, params, use_tqdm=False)]
    if options.save:
        options.save.write_text(json.dumps(answers))
    if options.compare:
        others = json.loads(options.compare.read_text())
        same = [
            [a == b for a, b in zip(ours, theirs, strict=True)] for ours, theirs in zip(answers, others, strict=True)
        ]
        parted = sorted(row.index(False) for row in same if False in row)
        print(
            f"{options.dtype}: {len(same) - len(parted)} of {len(same)} answers equal; the others part after {parted}"
        )


if __name__ == "__main__":
    main()
