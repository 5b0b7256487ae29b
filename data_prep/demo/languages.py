"""`python -m data_prep.demo.languages OUT`: writes the shipped text in many languages, a folder for each."""

from __future__ import annotations

import gzip
import sys
from collections import defaultdict
from pathlib import Path

from harness.json_text import parse_json
from harness.say import say

FILE = Path(__file__).with_name("languages.jsonl.gz")


def write_languages(folder: Path) -> dict[str, int]:
    """Write `folder/<language>/udhr.jsonl` for each language; return the number of documents of each."""
    lines: dict[str, list[str]] = defaultdict(list)
    with gzip.open(FILE, "rt", encoding="utf-8") as shipped:
        for line in shipped:
            lines[str(parse_json(line)["language"])].append(line)
    for language, own in lines.items():
        file = folder / language / "udhr.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(own), encoding="utf-8")
    return {language: len(own) for language, own in lines.items()}


def main() -> None:
    """Read the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m data_prep.demo.languages OUT")
    for language, count in write_languages(Path(sys.argv[1])).items():
        say(f"{sys.argv[1]}/{language}: {count} documents")


if __name__ == "__main__":
    main()
