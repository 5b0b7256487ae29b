"""What must be right of what a command accepted, compared with plain readers that share no code with the product."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edits import Edit
from forked import Limits, Outcome, run_forked
from plain_readers import content_of, documents_of_part, parts_of_channel, tensors_of, texts_of

_BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, RecursionError, MemoryError)
_NULLS = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Attempt:
    """A command that has ended, in its place as it left it."""

    root: Path
    corpus: Path
    edits: Sequence[Edit]
    file: str
    """The damaged file, that of the first edit."""
    asked: str
    outcome: Outcome
    again: Callable[[Sequence[str]], Outcome]
    """Runs another command there."""


def settings_are_kept(attempt: Attempt) -> Iterator[str]:
    """Every scalar that the file spells is what the loaded configuration says: nothing is read as something else."""
    compared = run_forked(lambda: _compare_settings(attempt.root / attempt.file), attempt.root, Limits())
    yield from (f"a setting: {line}" for line in compared.output.decode(errors="replace").splitlines())
    if compared.code:
        yield f"a setting: cannot be compared: {compared.errors.decode(errors='replace')[-300:]}"


def _compare_settings(path: Path) -> int:
    """Writes what differs, one line each."""
    import sys

    import yaml

    from harness.config.load import load_config

    # libyaml's grammar, where it is there: as YAML says, a tab may stand before a value, which PyYAML's own refuses.
    loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    spelt = yaml.load(path.read_text(), Loader=loader)  # noqa: S506 (it makes nothing but text)
    config = load_config(path).model_dump(mode="json")
    for where, text in _leaves(spelt, ()):
        value: Any = config
        for key in where:
            value = value[int(key)] if isinstance(value, list) else value.get(key) if isinstance(value, dict) else None
        if not _means(text, value):
            sys.stdout.write(f"{'.'.join(where)} is spelt {text[:80]!r} and read as {str(value)[:80]!r}\n")
    return 0


def _leaves(tree: Any, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*where, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _leaves(value, (*where, str(number)))
    else:
        yield where, tree


def _means(text: str, value: Any) -> bool:
    """Whether a spelling stands for a value."""
    if value is None:
        return text in _NULLS
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    if isinstance(value, int | float):
        try:
            return math.isclose(float(text.replace("_", "")), value, rel_tol=1e-12)
        except ValueError:
            return False
    return not isinstance(value, str) or text == value or Path(text) == Path(value)


def documents_are_those_of_the_files(attempt: Attempt) -> Iterator[str]:
    """What was shown, counted or verified of the channel `data/en` is what a plain reader finds there."""
    try:
        documents = [
            document
            for prefix in parts_of_channel(attempt.root / "data" / "en")
            for document in documents_of_part(prefix)
        ]
    except (*_BROKEN, Exception) as error:  # noqa: BLE001 (struct.error, too)
        if attempt.asked.startswith(("verify", "show", "sample", "merge")):
            yield f"a channel that a plain reader cannot read: {type(error).__name__}: {error}"
        return
    if attempt.asked in ("show", "sample"):
        for shown in json.loads(attempt.outcome.output):
            if shown.get("ids") is not None and shown["ids"] != documents[shown["number"]]:
                yield f"a document of other tokens: number {shown['number']}"
            if shown["tokens"] != len(documents[shown["number"]]):
                yield f"a document of another length: number {shown['number']}"
    elif attempt.asked == "count":
        [counted] = json.loads(attempt.outcome.output)  # of the list: indices are the matter of `verify`
        # What stands behind the last line end is a line that a process was killed in.
        written = content_of(attempt.root / "data/en/parts.jsonl").split(b"\n")[:-1]
        lines = [json.loads(line) for line in written if line.strip()]
        found = tuple(sum(line[key] for line in lines) for key in ("documents", "tokens"))
        if (counted["documents"], counted["tokens"]) != found:
            yield f"another count: {counted['documents']}, {counted['tokens']}, not {found}"
    elif attempt.asked == "merge":
        yield from _merge_problems(attempt, documents)


def _merge_problems(attempt: Attempt, documents: list[list[int]]) -> Iterator[str]:
    merged = [doc for prefix in parts_of_channel(attempt.root / "merged") for doc in documents_of_part(prefix)]
    if merged[: len(documents)] != documents:
        yield "merged documents differ: those of the first channel"


def tokens_are_those_of_the_library(attempt: Attempt) -> Iterator[str]:
    """The channel `out/x` holds what the tokenizer's own library makes of the text, where it is one file of it."""
    folder = attempt.root / attempt.file
    if attempt.asked != "tokenize" or folder.name != "tokenizer.json" or not folder.is_file():
        return
    compared = run_forked(
        lambda: _compare_tokens(folder, attempt.root), attempt.root, Limits(wall_s=30.0, memory_bytes=2 << 30)
    )
    yield from (f"other tokens: {line}" for line in compared.output.decode(errors="replace").splitlines()[:1])


def _compare_tokens(tokenizer: Path, root: Path) -> int:
    import sys

    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(tokenizer))
    library.no_padding()
    library.no_truncation()
    expected = [library.encode(text, add_special_tokens=False).ids for text in texts_of(root / "text.jsonl")]
    made = [doc for prefix in parts_of_channel(root / "out" / "x") for doc in documents_of_part(prefix)]
    for number, (ids, document) in enumerate(zip(expected, made, strict=False)):
        if document[: len(ids)] != ids and document[1 : 1 + len(ids)] != ids:
            sys.stdout.write(f"document {number} has {document[:20]}, the library says {ids[:20]}\n")
    if len(expected) != len(made):
        sys.stdout.write(f"{len(made)} documents, the library has {len(expected)}\n")
    return 0


def documents_are_those_of_the_text(attempt: Attempt) -> Iterator[str]:
    """The channel `out/x` has the documents that a plain reader finds in the text, or those left out were told."""
    if attempt.asked != "tokenize":
        return
    try:
        texts = texts_of(attempt.root / attempt.file)
    except (*_BROKEN, Exception) as error:  # noqa: BLE001 (of packings and pyarrow)
        yield f"a file that a plain reader cannot read: {type(error).__name__}: {error}"
        return
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(attempt.root / "tokenizer.json"))
    expected = [library.encode(text).ids for text in texts]
    made = [doc[:-1] for prefix in parts_of_channel(attempt.root / "out" / "x") for doc in documents_of_part(prefix)]
    rejected = attempt.root / "out" / "x" / "rejected.jsonl"
    num_rejected = len(content_of(rejected).splitlines()) if rejected.is_file() else 0
    if made != expected and not num_rejected:
        yield f"other documents: {len(made)}, not {len(expected)}, and none was rejected"
    odd = [number for number, document in enumerate(made) if document not in expected]
    if odd:
        yield f"a document that is not in the text: number {odd[0]}"


def nothing_is_added_to_the_text(attempt: Attempt) -> Iterator[str]:
    """What was put in order or freed of copies is the text that a plain reader finds, without more or fewer."""
    if attempt.asked not in ("dedup", "order", "order similar"):
        return
    given = texts_of(attempt.root / "text.jsonl")
    made = [text for path in sorted((attempt.root / "out").glob("*.jsonl*")) for text in _kept_texts(path)]
    expected = list(dict.fromkeys(given)) if attempt.asked == "dedup" else given
    if sorted(made) != sorted(expected):
        yield f"other documents: {len(made)}, not {len(expected)}"


def _kept_texts(path: Path) -> list[str]:
    return [] if path.name.endswith(".dropped") else texts_of(path)


def steps_are_those_of_an_undisturbed_run(attempt: Attempt) -> Iterator[str]:
    """Every step that was recorded has the values of the run that nobody disturbed, unless a command changed them."""
    expected = _steps(attempt.root / "expected")
    try:
        found = _steps(attempt.root / "run")
    except _BROKEN:  # somebody made something else of it: the run goes on without
        return
    done = [path.read_text() for path in (attempt.root / "run" / "signals" / "done").glob("*.json")]
    if any(f'"kind": "{kind}"' in text for kind in ("rollback", "quarantine", "stop") for text in done):
        return
    for step in range(5, max(expected) + 1):
        if found.get(step) != expected[step]:
            yield f"a step of another value: step {step} has {found.get(step)}, not {expected[step]}"


def _steps(run: Path) -> dict[int, tuple[object, ...]]:
    """The last record of each step, of lines that can be read."""
    found = {}
    for line in content_of(run / "metrics.jsonl").splitlines():
        try:
            fields = json.loads(line)
            values = ("train/lm_loss", "optim/grad_norm", "data/batch_hash")
            if isinstance(fields, dict):
                found[fields["step"]] = tuple(fields.get(name) for name in values)
        except _BROKEN:
            continue
    return found


def tensors_are_those_of_the_files(attempt: Attempt) -> Iterator[str]:
    """What was converted gives, when it is converted back, the tensors that a plain reader finds in the model."""
    folder = attempt.root / Path(attempt.file).parts[0]
    if attempt.asked != "from-hf":
        return
    back = attempt.again(["convert", "to-hf", "out", "back", "--without-tokenizer"])
    if back.code != 0:
        yield f"the way back: exit code {back.code}: {back.errors.decode(errors='replace')[-300:]}"
        return
    found = {name: (shape, data) for name, _, shape, data in tensors_of(attempt.root / "back")}
    try:
        given = {name: (shape, data) for name, _, shape, data in tensors_of(folder)}
    except _BROKEN as error:
        yield f"tensors that a plain reader cannot read: {error}"
        return
    for name, (shape, data) in found.items():
        if name in given and given[name] != (shape, data):
            yield f"a tensor of other values: {name}"
    if missing := sorted(set(found) - set(given)):
        yield f"a tensor from nowhere: {missing[0]}"
