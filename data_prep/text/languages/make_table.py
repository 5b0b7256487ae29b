"""Makes `rules.json` from the thresholds that FineWeb-2 publishes for each language.

    git clone https://github.com/huggingface/fineweb-2
    python -m data_prep.text.languages.make_table fineweb-2/configs > data_prep/text/languages/rules.json

Taken are the words that nearly every text of a language has, and the bounds of the mean length of its words. What
`SOURCES.md` says of them holds for the output. Needs the package pycountry.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from harness.say import say

INDIVIDUAL = {
    "ar": "arb", "az": "azj", "bh": "bho", "et": "ekk", "fa": "fas", "om": "gaz", "tl": "fil", "gn": "gug", "ku": "kmr",
    "lv": "lvs", "mg": "plt", "mn": "khk", "ms": "zsm", "ne": "npi", "no": "nob", "or": "ory", "ps": "pbt", "qu": "quy",
    "sh": "hbs", "sq": "als", "sw": "swh", "uz": "uzn", "yi": "ydd",
}  # fmt: skip
"""The language that FineWeb-2 has for a code that stands for several."""
OWN_RULES = ("eng", "cmn")


def code_of(iso_639_3: str) -> str:
    """Return the code that identifiers give to a language: of ISO 639-1 where there is one."""
    import pycountry

    general = {individual: code for code, individual in INDIVIDUAL.items()}
    if iso_639_3 in general:
        return general[iso_639_3]
    found = pycountry.languages.get(alpha_3=iso_639_3)
    return getattr(found, "alpha_2", iso_639_3)


def rules_of(files: Sequence[Path]) -> dict[str, Any]:
    """Return the rules for a language, of all scripts that it is written in."""
    settings = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    words = [str(word) for each in settings for word in each["stopwords"]]
    return {
        "iso_639_3": files[0].stem.partition("_")[0],
        "stop_words": list(dict.fromkeys(word.lower() for word in words if any(map(str.isalpha, word)))),
        "mean_word_length": [
            min(each["min_avg_word_length"] for each in settings),
            max(each["max_avg_word_length"] for each in settings),
        ],
    }


def main() -> None:
    """Print the table, a language on each line."""
    files = sorted(Path(sys.argv[1]).glob("*_*.yml"))
    lines = []
    for language, group in groupby(files, key=lambda file: file.stem.partition("_")[0]):
        if language not in OWN_RULES:
            rules = rules_of(list(group))
            lines.append(f"{json.dumps(code_of(language))}: {json.dumps(rules, ensure_ascii=False)}")
    say("{\n" + ",\n".join(sorted(lines)) + "\n}")


if __name__ == "__main__":
    main()
