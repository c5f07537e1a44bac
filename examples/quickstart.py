"""The quickstart: four prompts completed and one question answered by the default model."""

import time

from octavo import LLM, SamplingParams

PROMPTS = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
]
MESSAGES = [{"role": "user", "content": "What is photosynthesis?"}]


def main() -> None:
    with LLM() as llm:
        started = time.perf_counter()
        outputs = llm.generate(PROMPTS, SamplingParams(temperature=0.0, max_tokens=32))
        seconds = time.perf_counter() - started
        for output in outputs:
            print(f"{output.prompt!r} -> {output.outputs[0].text!r}")
        num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        print(f"{num_tokens} tokens in {seconds:.2f} s: {num_tokens / seconds:.1f} tok/s\n")

        started = time.perf_counter()
        (answer,) = llm.chat(MESSAGES, SamplingParams(temperature=0.0, max_tokens=96))
        seconds = time.perf_counter() - started
        num_tokens = len(answer.outputs[0].token_ids)
        print(f"user: {MESSAGES[0]['content']}\nassistant: {answer.outputs[0].text}")
        print(f"{num_tokens} tokens in {seconds:.2f} s: {num_tokens / seconds:.1f} tok/s")


if __name__ == "__main__":
    main()
