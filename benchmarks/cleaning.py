"""The steps of cleaning and de-duplication beside datatrove's own, on the same real English, on one core.

    python -m benchmarks.cleaning [--megabytes 4]

Processor time is measured, so that other work on the machine hardly matters. datatrove's filters and signatures are
given our splitter of words (`data_prep.corpus.words`), and, where spaCy is installed, datatrove's own too, on a tenth
of the text.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import data_prep.demo

PIECE = 4000
SLOW_SHARE = 10
OURS_FOUND = "our rules, the language found by py3langid"


def say(line: str) -> None:
    """Writes a line to the terminal."""
    sys.stdout.write(line + "\n")


def english(max_bytes: int) -> list[str]:
    """Return pieces of the demo's English books, repeated until there are enough."""
    pieces: list[str] = []
    with gzip.open(Path(data_prep.demo.__file__).parent / "en.jsonl.gz") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            pieces += [text[begin : begin + PIECE] for begin in range(0, len(text) - PIECE, PIECE)]
    size = sum(len(piece.encode()) for piece in pieces)
    return (pieces * (max_bytes // size + 1))[: max(1, len(pieces) * max_bytes // size)]


def indonesian(count: int) -> list[str]:
    """Return as many texts of about that length in Indonesian, whose language has to be found."""
    with gzip.open(Path(data_prep.demo.__file__).parent / "languages.jsonl.gz") as lines:
        records = [json.loads(line) for line in lines]
    text = "\n".join(record["text"] for record in records if record["language"] == "id")
    pieces = [text[begin : begin + PIECE] for begin in range(0, len(text) - PIECE, PIECE // 4)]
    return (pieces * (count // len(pieces) + 1))[:count]


def speed(work: Callable[[str], object], texts: Sequence[str]) -> float:
    """Return the MB of text per second on one core; the first text is not counted."""
    work(texts[0])
    begin = time.process_time()
    for text in texts:
        work(text)
    return sum(len(text.encode()) for text in texts) / 1e6 / (time.process_time() - begin)


def steps(folder: Path) -> dict[str, Callable[[str], object]]:
    """Return the measured steps by name."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

    from data_prep.corpus.near import choose_bands, minima
    from data_prep.corpus.words import Words
    from data_prep.text.clean_rules import PRESETS, first_broken
    from data_prep.text.languages.identify import identifier

    bands, identify = choose_bands(0.8), identifier(None)
    found: dict[str, Callable[[str], object]] = {
        "our rules for prose (13)": lambda text: first_broken(text, PRESETS["prose"]),
        f"{OURS_FOUND} (Indonesian)": lambda text: first_broken(text, PRESETS["prose"], identify=identify),
        "our signatures (rensa)": minima,
    }
    splitters: dict[str, object] = {"our words": Words()}
    if importlib.util.find_spec("spacy"):
        splitters["spaCy"] = "eng_Latn"
    for name, words in splitters.items():
        quality, repetition = GopherQualityFilter(language=words), GopherRepetitionFilter(language=words)
        signature = MinhashDedupSignature(str(folder), bands.config, words)

        def both(text: str, quality: object = quality, repetition: object = repetition) -> None:
            document = Document(text=text, id="0")
            quality.filter(document)  # type: ignore[attr-defined]
            repetition.filter(document)  # type: ignore[attr-defined]

        def signed(text: str, signature: MinhashDedupSignature = signature) -> object:
            return signature.get_signature(signature.get_shingles(text))

        found[f"datatrove, Gopher quality and repetition, {name}"] = both
        found[f"datatrove, signatures, {name}"] = signed
    return found


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=4)
    arguments = parser.parse_args()
    texts = english(int(arguments.megabytes * 1e6))
    with tempfile.TemporaryDirectory() as folder:
        for name, work in steps(Path(folder)).items():
            part = texts[: len(texts) // SLOW_SHARE] if "spaCy" in name else texts
            part = indonesian(len(texts)) if name.startswith(OURS_FOUND) else part
            say(f"{name:<55} {speed(work, part):8.2f} MB/s a core")


if __name__ == "__main__":
    main()
