"""The belongings of a checkpoint: what an export needs besides the weights and the manifest.

```
step_0012000/tokenizer/    the files of its tokenizer, as they came: tokenizer.json, tokenizer_config.json, …
             origin/       config.json and generation_config.json of the Hugging Face model with which training began
```

They are files of the checkpoint like all others, so it is the same wherever it lies. A run takes them over from the
checkpoint that it goes on from, and writes them into each of its own. Nothing here says what the weights compute: that
is in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import CheckpointError
from harness.run.checkpoints.manifest import Manifest, file_name
from harness.run.files import read_regular, refusal
from harness.run.paths import RunDir
from harness.text import one_line

TOKENIZER_FOLDER = "tokenizer"
ORIGIN_FOLDER = "origin"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
_FOLDER_BEFORE = "source"
"""Folder of a run in which earlier versions kept what `harness convert from-hf` found."""
_ORIGIN = (CONFIG, GENERATION_CONFIG)
_TOKENIZER_BEFORE = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.json", "merges.txt"),
)
"""All that they kept there of a tokenizer."""
MAX_BYTES = 512 * 1024**2
"""A file above this size is refused: no tokenizer comes near it."""

Belongings = Mapping[str, bytes]
"""Content of files by their names in a checkpoint, such as `tokenizer/tokenizer.json`."""


def belongings_of(path: Path, manifest: Manifest) -> dict[str, bytes]:
    """Read the belongings of a checkpoint that was verified; of one of an earlier version, those that its run has.

    Raises:
        CheckpointError: The disk refuses, or a file is too large.
    """
    own = [name for name in manifest.files if PurePosixPath(name).parts[0] in (TOKENIZER_FOLDER, ORIGIN_FOLDER)]
    if own or manifest.longest_seq_length is not None:
        return {name: read_whole(path / name) for name in own}
    for place in (path.absolute(), path.resolve()):
        run = RunDir(place.parent.parent)
        # Beside any other folder, something called source/ is of somebody else.
        if place.parent == run.checkpoints and (run.root / _FOLDER_BEFORE / CONFIG).is_file():
            return _of_before(run.root / _FOLDER_BEFORE)
    return {}


def _of_before(folder: Path) -> dict[str, bytes]:
    places = ((ORIGIN_FOLDER, _ORIGIN), (TOKENIZER_FOLDER, _TOKENIZER_BEFORE))
    return {
        f"{place}/{name}": read_whole(folder / name)
        for place, names in places
        for name in names
        if (folder / name).is_file()
    }


def in_folder(belongings: Belongings, folder: str) -> dict[str, bytes]:
    """Return the files of one of the two folders, by their names in it."""
    return {
        name.removeprefix(f"{folder}/"): content
        for name, content in belongings.items()
        if name.startswith(f"{folder}/")
    }


def put_into(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return files as the belongings of a checkpoint, in one of its two folders.

    Raises:
        CheckpointError: One has a name that a file of a checkpoint may not have.
    """
    return {_named(f"{folder}/{name}"): content for name, content in files.items()}


def _named(name: str) -> str:
    try:
        return file_name(name)
    except ValueError as error:
        shown = one_line(PurePosixPath(name).name)
        raise CheckpointError(f"the file {shown} cannot go with a checkpoint: {error}. Rename it.") from None


def read_whole(path: Path) -> bytes:
    """Read a file that is no link and not too large.

    Raises:
        CheckpointError: It is, or the disk refuses.
    """
    try:
        content = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} {refusal(path, error)}.") from error
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_BYTES // 1024**2} MiB. It does not look like a tokenizer.")
    return content


def longest_seq_length(manifest: Manifest) -> int | None:
    """Return the tokens of the longest sequences that a checkpoint's weights were trained on; 0: on none.

    An earlier version wrote down the lengths of the phases that had begun. One that began with the very next step has
    trained nothing yet. Of the mean of checkpoints it wrote down nothing: None.
    """
    if manifest.longest_seq_length is not None:
        return manifest.longest_seq_length
    if not manifest.consumed_samples:
        return 0
    data = manifest.fingerprint.get("data")
    if not isinstance(data, dict):
        return None
    history = manifest.cursor.get("history")
    begun = [_count(each, "consumed_samples") for each in _objects(history) if each.get("kind") == "phase"]
    later = [_count(phase, "seq_length") for phase in _objects(data.get("later_phases"))]
    trained = [length for length, start in zip(later, begun, strict=False) if start < manifest.consumed_samples]
    return max([_count(data, "seq_length"), *trained])


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
