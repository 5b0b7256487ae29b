"""Makes the demo's tokenizer and its three channels out of real text, in seconds and always the same.

Chinese and English ship beside this file (SOURCES.md says where they are from); code is the standard library of the
Python that runs. Everything lies under one folder:

    OUT/text/code.jsonl              the code documents
    OUT/tokenizer.model              SentencePiece BPE, 4,096 ids
    OUT/channels/{zh,en,code}/       channels, made as by `harness data tokenize`
    OUT/demo.json                    what all this was made from; written last
"""

from __future__ import annotations

import gzip
import json
import platform
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from data_prep.channels.channel_job import ChannelJob
from data_prep.channels.tokenize_channel import tokenize_channel
from data_prep.channels.totals import shown_progress
from data_prep.tokenizers.train_tokenizer import train_sentencepiece
from harness.channels.channels import PARTS_FILE
from harness.errors import DataError, UsageError
from harness.json_text import parse_json
from harness.run.files import replace_file
from harness.screen import Screen
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

CHANNELS = ("zh", "en", "code")
MARKER = "demo.json"
SHIPPED = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Sizes of the demo."""

    vocab_size: int = 4096
    sample_characters: int = 400_000
    """Characters of each channel that the tokenizer is trained on."""
    character_coverage: float = 0.985
    """Share of the sample's characters that get an id; the rare rest is spelt in bytes. Leaves room for merges."""
    code_bytes: int = 1_500_000
    """Size of the code channel."""
    max_module_bytes: int = 48_000
    """Longer modules of the standard library are left out, so that none fills the channel."""


def build_demo(out: Path, say: Callable[[str], None], settings: DemoSettings | None = None) -> None:
    """Make what is missing under `out`; return at once if everything is there.

    Raises:
        UsageError: `out` holds files of the same names that are not the demo's.
        DataError: The running Python has no readable standard library, or the disk is full.
    """
    settings = settings or DemoSettings()
    description = describe_demo(settings)
    if read_marker(out) == description and _is_complete(out):
        say(f"{out}: the demo's tokenizer and channels are there already")
        return
    _clear_older_demo(out)
    code = out / "text" / "code.jsonl"
    inputs = {"zh": SHIPPED / "zh.jsonl.gz", "en": SHIPPED / "en.jsonl.gz", "code": code}
    code.parent.mkdir(parents=True, exist_ok=True)
    replace_file(code, _to_jsonl(standard_library_documents(settings)))

    model = out / "tokenizer.model"
    sample = _sample(list(inputs.values()), settings.sample_characters)
    replace_file(model, train_sentencepiece(sample, settings.vocab_size, settings.character_coverage))
    tokenizer = open_tokenizer(model)
    say(f"{model}: SentencePiece BPE, {tokenizer.vocab_size:,} ids")
    for channel in CHANNELS:
        say(_make_channel(inputs[channel], out / "channels" / channel, tokenizer))
    replace_file(out / MARKER, json.dumps(description, indent=1).encode() + b"\n")


def _is_complete(out: Path) -> bool:
    channels = (out / "channels" / channel / PARTS_FILE for channel in CHANNELS)
    return (out / "tokenizer.model").exists() and all(parts.exists() for parts in channels)


def describe_demo(settings: DemoSettings) -> dict[str, object]:
    """Return everything that the demo's data depend on."""
    shipped = {name: xxhash.xxh3_64_hexdigest((SHIPPED / name).read_bytes()) for name in ("zh.jsonl.gz", "en.jsonl.gz")}
    return {"python": platform.python_version(), "text": shipped, "settings": asdict(settings)}


def read_marker(out: Path) -> object:
    """Return the record of what the demo under `out` was made from; None if it is missing or incomplete."""
    try:
        return parse_json((out / MARKER).read_bytes())
    except (OSError, ValueError):
        return None


def standard_library_documents(settings: DemoSettings) -> Iterator[str]:
    """Yield modules of the running Python's standard library, in the order of their names.

    Raises:
        DataError: There are no source files (a stripped-down Python).
    """
    folder = Path(sysconfig.get_path("stdlib"))
    total_bytes = 0
    for file in sorted(folder.glob("*.py")):
        content = file.read_bytes()
        if not content or len(content) > settings.max_module_bytes or total_bytes >= settings.code_bytes:
            continue
        total_bytes += len(content)
        yield content.decode("utf-8")
    if total_bytes == 0:
        raise DataError(
            f"{folder} has no source files of Python's standard library, from which the demo takes its code. "
            "Use a complete Python (3.11 or later)."
        )


def _clear_older_demo(out: Path) -> None:
    """Remove a demo made from other text or settings; never touch anything else."""
    if (out / MARKER).exists():
        (out / MARKER).unlink()
        for channel in CHANNELS:
            shutil.rmtree(out / "channels" / channel, ignore_errors=True)
    elif (out / "channels").exists() and not (out / "text" / "code.jsonl").exists():
        raise UsageError(
            f"{out} holds channels that are not the demo's (no {MARKER}). They stay as they are: "
            "give another folder, as in `python -m data_prep.demo .demo`."
        )


def _make_channel(source: Path, folder: Path, tokenizer: Tokenizer) -> str:
    job = ChannelJob(inputs=[source], folder=folder)
    console = Screen(stderr=True)
    with shown_progress(f"tokenize {folder.name}", source.stat().st_size, console) as progress:
        result = tokenize_channel(job, tokenizer, progress)
    return result.summary(folder)


def _to_jsonl(documents: Iterator[str]) -> bytes:
    return b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in documents)


def _sample(files: list[Path], characters: int) -> Iterator[str]:
    """Yield documents from the beginning of each file until it has given this many characters."""
    for file in files:
        taken = 0
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            for line in lines:
                if taken >= characters:
                    break
                text = json.loads(line)["text"]  # noqa: TID251 (a record of the user, taken as it is)
                taken += len(text)
                yield text
