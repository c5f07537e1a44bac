"""The process that `octavo bench startup` starts: it loads a model, makes one token and prints when it was where.

Arguments: the engine's arguments as a JSON object, and the moment of its start on the monotonic clock.
"""

from __future__ import annotations

import json
import sys
import time


def main(arguments: str, started: float) -> None:
    from octavo.llm import LLM
    from octavo.sampling_params import SamplingParams

    imported = time.monotonic()
    engine_arguments = json.loads(arguments)
    has_text = not engine_arguments.get("skip_tokenizer_init")
    with LLM(**engine_arguments) as llm:
        loaded = time.monotonic()
        prompt = "Hello" if has_text else [1]
        llm.generate(prompt, SamplingParams(max_tokens=1, detokenize=has_text), use_tqdm=False)
        answered = time.monotonic()
    phases = {
        "import": imported - started,
        "load": loaded - imported,
        "first_token": answered - loaded,
        "total": answered - started,
    }
    print(json.dumps(phases))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
