"""The fields of `manifest.json`; reads it without trusting it and writes it whole.

The file is UTF-8 JSON, an object with the fields of `Manifest`, one entry of each list or object per line. Sizes are
in bytes, hashes are XXH3 in lower-case hexadecimal. It is written last: a folder without it is not a checkpoint. Its
last line, `"checksum"`, is the hash of the same text without that line, because a flipped bit may leave valid JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import xxhash
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from harness.errors import CheckpointError
from harness.json_text import parse_json
from harness.plan.layouts import Layout
from harness.run.checkpoints.signature import SigningKey
from harness.run.field_types import is_count
from harness.run.files import UNREADABLE, read_regular, replace_file

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION: Final = 1
MAX_MANIFEST_BYTES = 64 * 1024**2
"""A manifest above this size is refused. One of 100,000 files has an eighth of it."""
MAX_LOSSES = 50
MAX_NAME_LENGTH = 512
_CHECKSUM = re.compile(rb',\n  "checksum": "([0-9a-f]{16})"\n}\n\Z')
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\]")

Health = Literal["clean", "suspect", "abandoned"]
MOST_COUNT = 2**53
"""Numbers above it are damage: no run counts so far, and not every program could read them."""
Count = Annotated[int, Field(ge=0, le=MOST_COUNT)]
MOST_ATTEMPTS = 10**6
"""Attempts of a run: one more for each rollback, and for each start that repeats steps."""
Attempt = Annotated[int, Field(ge=0, le=MOST_ATTEMPTS)]
Beta = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
HexHash = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Text = Annotated[str, Field(min_length=1, max_length=256)]


def file_name(name: str) -> str:
    """Return a name that a file of a checkpoint may have.

    Raises:
        ValueError: It may not.
    """
    parts = name.split("/")
    if len(name) > MAX_NAME_LENGTH or _UNPRINTABLE.search(name) or any(part in ("", ".", "..") for part in parts):
        raise ValueError("a file name must be relative, printable, and without '..' or empty parts")
    if name == MANIFEST_NAME:
        raise ValueError("the manifest cannot list itself")
    return name


def _shaped(fingerprint: JsonObject) -> JsonObject:
    """Check the shape of what is taken apart later: objects of objects, and lists of objects."""
    for name in ("model", "data"):
        _require(fingerprint.get(name), dict, name)
    data = fingerprint.get("data")
    if not isinstance(data, dict):
        return fingerprint
    for name, kind in (("channels", dict), ("rules", dict), ("later_phases", list)):
        _require_objects(data.get(name), kind, f"data.{name}")
    channels = data.get("channels")
    for name, channel in channels.items() if isinstance(channels, dict) else ():
        if isinstance(channel, dict):
            _require_objects(channel.get("parts"), list, f"data.channels.{name}.parts")
            if (digest := channel.get("parts_digest")) is not None:
                _require(digest, dict, f"data.channels.{name}.parts_digest")
                if not isinstance(digest, dict) or not is_count(digest.get("num_parts")):
                    raise ValueError(f"data.channels.{name}.parts_digest has no num_parts")
    return fingerprint


def _require_objects(value: JsonValue, kind: type, place: str) -> None:
    _require(value, kind, place)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if not isinstance(inner, dict):
            raise ValueError(f"{place} holds something else than objects")


def _require(value: JsonValue, kind: type, place: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{place} is no {'object' if kind is dict else 'list'}")


FileName = Annotated[str, AfterValidator(file_name)]
JsonObject = dict[str, JsonValue]
Fingerprint = Annotated[JsonObject, AfterValidator(_shaped)]


class Record(BaseModel):
    """A part of the manifest: frozen, no unknown keys, no silent type conversion, no NaN and no infinity."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        populate_by_name=True,
    )


class FileRecord(Record):
    """One file of the checkpoint."""

    bytes: Count
    xxh3: HexHash
    """XXH3 of the content, 64 bits, as in a channel's `parts.jsonl`."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the content, in signed manifests."""


class Parent(Record):
    """The checkpoint from which this one's training went on."""

    step: Count
    attempt: Attempt


class Versions(Record):
    """Versions of the programs that wrote the checkpoint."""

    harness: Text
    megatron_core: Text
    torch: Text
    python: Text


class RollbackRecord(Record):
    """The last rollback on the way to a checkpoint."""

    command: Text = Field(alias="order")
    """Fingerprint of the command; `order` in the file. A command that is found again after a crash is not repeated."""
    from_step: Count
    """Step that the run had reached when it was rolled back."""
    to_step: Count
    """Step of the checkpoint that it returned to."""
    attempt: Attempt
    """The attempt that began with it."""
    reason: str = Field(max_length=1000)


class Adjustment(Record):
    """A change of the optimizer that ends by itself."""

    learning_rate_factor: Annotated[float, Field(gt=0, le=10)]
    adam_betas: tuple[Beta, Beta] | None
    until_step: Count
    """Last step to which it applies."""


class HeldOutLosses(Record):
    """The held-out losses of an evaluation, which later ones are compared with."""

    step: Count
    phase: Text
    """Name of the phase by whose settings it was made."""
    seq_length: Count
    """Tokens in a sample."""
    losses: dict[Text, float]
    """Loss of each channel in nats, where it is finite."""


class Manifest(Record):
    """One checkpoint: its state, its origin, and the files that belong to it."""

    format_version: Literal[1] = FORMAT_VERSION
    step: Count
    """Updates that the saved weights have seen."""
    attempt: Attempt
    parent: Parent | None
    """None where training began from initial weights."""
    health: Health
    pinned: bool = False
    """True if a person pinned it: it is never pruned."""
    fencing_token: Count | None = None
    """Token of the owner of the run who published it (see `harness.run.fence`); None if nobody held the run."""
    config_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]
    versions: Versions
    layout: Layout
    consumed_samples: Count
    consumed_tokens: Count
    learning_rate: NonNegative
    """Learning rate of the last update."""
    next_batch_hash: HexHash | None
    """`data/batch_hash` of the next step; None after the last step of a run."""
    saved_at: AwareDatetime
    save_seconds: NonNegative
    """Seconds for writing the files, before they were hashed and published."""
    cursor: JsonObject
    """Position in the data, as `harness.data.order.cursor` writes it."""
    optimizer_norms: dict[str, NonNegative]
    """L2 norm of each optimizer state over the whole model."""
    last_losses: tuple[tuple[Count, float], ...] = Field(max_length=MAX_LOSSES)
    """The last steps and their `train/lm_loss`, oldest first."""
    rollback: RollbackRecord | None = None
    """The last rollback on the way to this state."""
    adjustment: Adjustment | None = None
    """Change by a rollback for some steps, while it lasts."""
    rotation: JsonObject | None = None
    """`rotary_base` and `rope_scaling` of the last step, where a phase may have its own; None: those of the model."""
    longest_seq_length: Count | None = None
    """Tokens of the longest sequences that these weights were trained on, in all phases on the way to them; 0 if they
    only came from another model. None: written by an earlier version (see `harness.run.checkpoints.for_export`)."""
    base_losses: HeldOutLosses | None = None
    """Held-out losses before the first step, where they were measured; absent from the file where they were not."""
    phase_losses: HeldOutLosses | None = None
    """Held-out losses at the end of the last phase that was evaluated at its end; absent where there is none."""
    fingerprint: Fingerprint
    """Model, data and tokenizer, on which the weights depend. Compared field by field at resume."""
    files: dict[FileName, FileRecord] = {}
    """Every file of the folder except the manifest. Empty only before publishing."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Signature as it was read; see `harness.run.checkpoints.signature`. It is made again whenever the manifest is
    written."""


def manifest_text(manifest: Manifest) -> str:
    """Return the text of a manifest without its signature and checksum. Equal manifests give equal text."""
    absent = {name for name in ("base_losses", "phase_losses") if getattr(manifest, name) is None}
    fields = manifest.model_dump(mode="json", by_alias=True, exclude={"signature", *absent})
    fields["files"] = {name: file.model_dump(exclude_none=True) for name, file in sorted(manifest.files.items())}
    return "{\n" + ",\n".join(f"  {json.dumps(name)}: {_lines(value)}" for name, value in fields.items()) + "\n}\n"


def _lines(value: object) -> str:
    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f"    {json.dumps(key)}: {_compact(item)}" for key, item in value.items()) + "\n  }"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"    {_compact(item)}" for item in value) + "\n  ]"
    return _compact(value)


def _compact(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def write_manifest(folder: Path, manifest: Manifest, key: SigningKey | None = None) -> None:
    """Write or replace a manifest durably, signed if there is a key; a crash leaves the old one or the new one.

    Raises:
        CheckpointError: What would be written could not be read again (a strange file name, a NaN); nothing is written.
        OSError: From the disk; the old manifest, if there was one, is untouched.
    """
    content = manifest_bytes(manifest, key)
    parse_manifest(content)
    replace_file(folder / MANIFEST_NAME, content)


def manifest_bytes(manifest: Manifest, key: SigningKey | None = None) -> bytes:
    """Return the bytes of a manifest file: text, signature if there is a key, and the checksum in the last line."""
    text = manifest_text(manifest).encode()
    if key is not None:
        text = key.signed(text)
    checksum = xxhash.xxh3_64_hexdigest(text)
    return text.removesuffix(b"\n}\n") + f',\n  "checksum": "{checksum}"\n}}\n'.encode()


def read_manifest(folder: Path, key: SigningKey | None = None) -> Manifest:
    """Return the manifest of a checkpoint. If a key is given, it must have signed it.

    Raises:
        CheckpointError: The folder has none, or it is damaged, too large, of another format version, or not signed.
    """
    found = manifest_or_problem(folder, key)
    if isinstance(found, str):
        raise CheckpointError(f"{folder} is not a usable checkpoint: {found}.")
    return found


def manifest_or_problem(folder: Path, key: SigningKey | None = None) -> Manifest | str:
    """Return the manifest of a folder, or why the folder is not a checkpoint (or not one that `key` has signed)."""
    try:
        return parse_manifest(read_regular(folder / MANIFEST_NAME, MAX_MANIFEST_BYTES), key)
    except FileNotFoundError:
        return f"{MANIFEST_NAME} is missing"
    except OSError as error:
        return f"{MANIFEST_NAME} {UNREADABLE}: {error.strerror}"
    except CheckpointError as error:
        return str(error)


def parse_manifest(content: bytes, key: SigningKey | None = None) -> Manifest:
    """Read a manifest's bytes strictly. With a key, the signature is checked before anything else is used.

    Raises:
        CheckpointError: Too large, altered since it was written, not JSON, a repeated key, NaN or infinity, another
            version, no files, a wrong field.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        raise CheckpointError(f"{MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES // 1024**2} MiB")
    content = _without_checksum(content)
    if key is not None and (problem := key.problem(content)) is not None:
        raise CheckpointError(f"{MANIFEST_NAME} is not to be trusted: {problem}")
    try:
        fields = parse_json(content, unique_keys=True)
    except ValueError as error:
        raise CheckpointError(f"{MANIFEST_NAME} is not valid JSON: {error}") from None
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise CheckpointError(
            f"{MANIFEST_NAME} has format version {_shown(version)}, and this harness reads version {FORMAT_VERSION}: "
            "use the version of harness that wrote it"
        )
    try:
        # Parsed again from the text: only there do lists count as tuples and texts as times in strict mode.
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise CheckpointError(f"{MANIFEST_NAME} is damaged: {_first_problems(error)}") from None
    if not manifest.files:
        raise CheckpointError(f"{MANIFEST_NAME} is damaged: it lists no files")
    return manifest


def _without_checksum(content: bytes) -> bytes:
    """Return the text that the checksum covers. Old manifests have no checksum and are returned as they are."""
    found = _CHECKSUM.search(content)
    if found is None:
        return content
    text = content[: found.start()] + b"\n}\n"
    checksum = xxhash.xxh3_64_hexdigest(text)
    if checksum != found[1].decode():
        raise CheckpointError(
            f"{MANIFEST_NAME} was altered: the hash of its text is {checksum}, its last line says {found[1].decode()}"
        )
    return text


def _first_problems(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False)
    shown = [f"{_place(detail['loc'])}: {detail['msg']}, got {_shown(detail['input'])}" for detail in details[:3]]
    more = [f"{len(details) - 3} more"] if len(details) > 3 else []
    return "; ".join(shown + more)


def _place(location: tuple[int | str, ...]) -> str:
    return ascii(".".join(str(part) for part in location))[1:-1][:120] or "top level"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return f"an object with {len(value)} fields"
    return ascii(value)[:60]
