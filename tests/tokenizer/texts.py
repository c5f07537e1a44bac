"""Texts of all kinds, to tokenize."""
# ruff: noqa: RUF001

from __future__ import annotations

import random

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>"]
PIECES = [
    "The quick brown fox", "don't", "WE'LL", "I'm", "naïve café", "straße", "Ünïcödé", "ﬁne", "e\u0301",
    "한국어 문장", "日本語の文章です。", "中文，句子！", "Привет, мир", "γειά σου", "مرحبا بالعالم", "שלום",
    "नमस्ते दुनिया", "ไทยไทย", "አማርኛ", "ქართული", "𝒳𝓎𝓏", "𐍈", "🙂", "👩\u200d👩\u200d👧\u200d👦",
    "🏳\ufe0f\u200d🌈", "👍🏽", "🇩🇪", "1234567", "3.14", "1,000", "½", "²", "x²+y²", "Ⅷ", "٣٤٥", "१२", "①", "𝟘",
    " ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", "\xa0", "\u3000", "\u200b", "\u2028", "\x00", "\x07",
    "\x1b[0m", "\x7f", "\x85", "\ufeff", "�", "def f(x):\n    return x ** 2", "#include <stdio.h>",
    "a->b[i++] += 1;", "<div class='x'>", "</s>", "SELECT * FROM t;", "$€£", "...", "!!!", "--", "==", "`code`",
    "\\n", "\"q\"", "_snake_case", "camelCase", "HTTPServer2", "user@example.org", "a/b/c", "'s", "'", "Ġ", "▁",
    "<0x0A>",
]  # fmt: skip
CODE_POINTS = [*range(0xD7FF), *range(0x10000, 0x1FFFF)]


def varied_texts(count: int, seed: int = 0, extra: list[str] | None = None) -> list[str]:
    """`count` texts of one to eight pieces, half of them with spaces in between, some with characters at random."""
    rng = random.Random(seed)
    pieces = PIECES + (extra or [])
    texts = list(pieces)
    while len(texts) < count:
        chosen = [rng.choice(pieces) for _ in range(rng.randint(1, 8))]
        if rng.random() < 0.3:
            chosen.append("".join(chr(rng.choice(CODE_POINTS)) for _ in range(6)))
        texts.append(rng.choice(["", " "]).join(chosen))
    return texts
