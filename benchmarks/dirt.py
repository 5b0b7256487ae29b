"""Tests the signs of dirt on text that they were not tuned on: `python -m benchmarks.dirt --tokenizer T NAME=FOLDER…`.

Prints how often clean samples of each folder's text show a sign, and how often samples of eight kinds of dirt do that
were made from the same text. Signs and thresholds are those of `harness.watch.attribution`. The sample's loss, which is
a sign too, is left out here.
"""

from __future__ import annotations

import argparse
import base64
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from harness.data.signs import text_signs, token_signs
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer
from harness.watch.attribution import NEWLINE_SHARE, ONE_TOKEN_SHARE, REPEATED_SHARE, UNREADABLE_SHARE

_ENDINGS = (".txt", ".md", ".rst", ".py", ".h", ".c", ".html", ".json", ".pod", ".gz", "copyright")
_LEAST_CHARACTERS = 2000
_MOST_CHARACTERS = 200_000
_BREAK, _BACKSLASH = "\n", "\\"
_LEAST = {
    "newline_share": NEWLINE_SHARE,
    "most_common_token_share": ONE_TOKEN_SHARE,
    "repeated_share": REPEATED_SHARE,
    "unreadable_share": UNREADABLE_SHARE,
}

Spoil = Callable[[str, random.Random], str]


def _lost_bytes(text: str, chance: random.Random) -> str:
    return bytes(b for b in text.encode() if b < 128 or chance.random() < 0.7).decode(errors="replace")


def _wrong_encoding(text: str, _: random.Random) -> str:
    return text.encode().decode("latin-1")


def _noise(text: str, chance: random.Random) -> str:
    return chance.randbytes(len(text)).decode("latin-1")


def _line_breaks(text: str, chance: random.Random) -> str:
    return "".join(f"{text[:20].strip()}{chance.randint(200, 2000) * _BREAK}" for _ in range(20))


def _one_line(text: str, _: random.Random) -> str:
    line = max(text.splitlines()[:20], key=len)[:120]
    return f"{line}\n" * (len(text) // (len(line) + 1) + 1)


def _backslashes(text: str, chance: random.Random) -> str:
    return "".join(f"{line}{chance.randint(50, 500) * _BACKSLASH}" for line in text.splitlines())


def _base64(text: str, _: random.Random) -> str:
    return base64.b64encode(text.encode()).decode()


def _one_phrase(text: str, _: random.Random) -> str:
    phrase = text[100:160]
    return phrase * (len(text) // 60)


DIRT: dict[str, Spoil] = {
    "pages of line breaks": _line_breaks,
    "runs of backslashes": _backslashes,
    "one line again and again": _one_line,
    "one phrase again and again": _one_phrase,
    "lost bytes": _lost_bytes,
    "random bytes": _noise,
    "UTF-8 read as Latin-1": _wrong_encoding,
    "base64": _base64,
}


def documents(folder: Path) -> Iterator[str]:
    """Return the text files below a folder, in the order of their names."""
    for path in sorted(folder.rglob("*")):
        if path.name.endswith(_ENDINGS) and not path.name.endswith(".gz") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="ignore")[:_MOST_CHARACTERS]
            if len(text) >= _LEAST_CHARACTERS:
                yield text


def shows_a_sign(tokens: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Return whether a sample would count as looking like dirt, without its loss."""
    signs: dict[str, float | str] = dict(token_signs(np.array(tokens, dtype=np.int64)))
    signs |= text_signs(tokenizer.decode(list(tokens)))
    return any(float(signs[name]) >= least for name, least in _LEAST.items())


def share_with_a_sign(texts: Sequence[str], tokenizer: Tokenizer, seq_length: int, most: int) -> tuple[float, int]:
    """Return the share of samples with a sign in some texts, and the number of samples."""
    row = [token for ids in tokenizer.encode_documents(list(texts)) for token in ids]
    starts = range(0, len(row) - seq_length, seq_length)
    chosen = random.Random(0).sample(starts, min(most, len(starts)))
    return sum(shows_a_sign(row[start : start + seq_length], tokenizer) for start in chosen) / len(chosen), len(chosen)


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=150)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--seq-length", type=int, default=1024)
    arguments = parser.parse_args()
    tokenizer, chance = open_tokenizer(arguments.tokenizer), random.Random(0)
    names = ["clean", *DIRT]
    sys.stdout.write(f"| text | samples | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}\n")
    for name, folder in (pair.split("=", 1) for pair in arguments.folders):
        found = list(documents(Path(folder)))
        texts = chance.sample(found, min(arguments.documents, len(found)))
        share, count = share_with_a_sign(texts, tokenizer, arguments.seq_length, arguments.samples)
        cells = [f"{100 * share:.1f} %"]
        for spoil in DIRT.values():
            spoilt = [spoil(text, chance) for text in islice(texts, 20)]
            share, _ = share_with_a_sign(spoilt, tokenizer, arguments.seq_length, arguments.samples // 4)
            cells.append(f"{100 * share:.0f} %")
        sys.stdout.write(f"| {name} | {count} | {' | '.join(cells)} |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
