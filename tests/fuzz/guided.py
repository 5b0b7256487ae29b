"""Readers of the product in one process, guided by the lines that an input reaches: Atheris, with libFuzzer inside.

As a program: `python guided.py READER CORPUS [libFuzzer's options]`. A reader may raise what it says that it raises,
and nothing else. Files are only written where their reader takes a path. What was reached stays in CORPUS, so that a
later call goes on; an input that breaks something is written where `-artifact_prefix` says.
"""

from __future__ import annotations

import pickle
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Reader:
    """A function of the product that reads bytes from outside."""

    modules: Iterable[str]
    """Where it is, with what it calls: they are instrumented."""
    read: Callable[[bytes], object]
    raises: Callable[[], tuple[type[BaseException], ...]]
    begins: Iterable[bytes]
    """Inputs to begin with."""


def _json(content: bytes) -> object:
    from harness.json_text import parse_json

    return parse_json(content, unique_keys=True)


def _yaml(content: bytes) -> object:
    from harness.config.strict_yaml import parse_file_text

    return parse_file_text(content.decode(), "x.yaml")


def _command(content: bytes) -> object:
    from harness.run.commands.command import parse_command

    return parse_command("rollback.json", content, "1")


def _manifest(content: bytes) -> object:
    from harness.run.checkpoints.manifest import parse_manifest

    return parse_manifest(content)


def _record(content: bytes) -> object:
    from harness.run.records import from_json_line

    return from_json_line(content)


def _event(content: bytes) -> object:
    from harness.run.events import parse_event

    return parse_event(content)


def _index(content: bytes) -> object:
    from harness.channels.index_file import document_lengths, read_index_header

    path = _file("part.idx", content)
    header = read_index_header(path)
    return document_lengths(path, header, 0, header.num_documents)


def _provenance(content: bytes) -> object:
    from harness.channels.provenance import open_provenance

    path = _file("x.provenance", content)
    if (opened := open_provenance(path)) is None:
        return None
    with opened:
        return list(opened.entries())


def _dump(content: bytes) -> object:
    from harness.launch.collectives_dump import absent_ranks, read_dumps

    return absent_ranks(read_dumps(_file("rank_0", content).parent))


def _event_file(content: bytes) -> object:
    from harness.watch.recordings import read_recording

    return list(read_recording(_file("events.out.tfevents.1", content)))


def _csv(content: bytes) -> object:
    from harness.watch.recordings import read_recording

    return list(read_recording(_file("curve.csv", content)))


_FOLDER = Path(tempfile.gettempdir())


def _file(name: str, content: bytes) -> Path:
    path = _FOLDER / name
    path.write_bytes(content)
    return path


def _user_errors() -> tuple[type[BaseException], ...]:
    from harness.errors import HarnessError

    return (HarnessError,)


def _command_errors() -> tuple[type[BaseException], ...]:
    from harness.run.commands.requests import UnreadableCommandError

    return (UnreadableCommandError,)


def _json_errors() -> tuple[type[BaseException], ...]:
    from harness.json_text import JsonError

    return (JsonError,)


def _yaml_errors() -> tuple[type[BaseException], ...]:
    from harness.errors import ConfigError

    return (ConfigError, UnicodeDecodeError)  # the caller decodes


_INDEX = (
    b"MMIDIDX\x00\x00"
    + bytes([1, *[0] * 7, 8, 1, *[0] * 7, 2, *[0] * 7, 3, *[0] * 11])
    + bytes([*[0] * 8, 1, *[0] * 7])
)
_BLOCK = zlib.compress(bytes([0] * 8 + [1] + [0] * 23))  # one entry: file 0, line 1
_NAMES = zlib.compress(b"raw/0.jsonl")
_PROVENANCE = (
    b"HPROVEN1"
    + _BLOCK
    + _NAMES
    + struct.pack("<Q", 8 + len(_BLOCK))
    + struct.pack("<6Q8s", 1, 0, 8 + len(_BLOCK), len(_NAMES), 11, 0, b"HPROVEN1")
)
READERS: dict[str, Reader] = {
    "json": Reader(["harness.json_text"], _json, _json_errors, [b'{"a": [1, 2.5, null, "\\u00e9"]}']),
    "yaml": Reader(["harness.config.strict_yaml", "yaml"], _yaml, _yaml_errors, [b"a:\n  b: [1, {c: d}]\n# x\n"]),
    "command": Reader(
        ["harness.run.commands.command", "harness.run.commands.requests"],
        _command,
        _command_errors,
        [
            b'{"kind": "rollback", "to_step": 2, "skip_steps": [3, 4]}',
            b'{"kind": "quarantine", "documents": {"a/b": [1]}}',
        ],
    ),
    "manifest": Reader(["harness.run.checkpoints.manifest"], _manifest, _user_errors, [b'{\n  "step": 1\n}\n']),
    "record": Reader(
        ["harness.run.records"], _record, tuple, [b'{"attempt": 0, "step": 1, "time": 1.5, "phase": "a"}']
    ),
    "event": Reader(["harness.run.events"], _event, tuple, [b'{"time": 1.5, "kind": "step", "attempt": 0}']),
    "index": Reader(["harness.channels.index_file"], _index, _user_errors, [_INDEX]),
    "provenance": Reader(["harness.channels.provenance"], _provenance, _user_errors, [_PROVENANCE]),
    "dump": Reader(
        ["harness.launch.collectives_dump", "pickle"],
        _dump,
        tuple,
        [pickle.dumps({"pg_config": {"0": {"name": "0", "desc": "x", "ranks": "[0, 1]"}}, "entries": []})],
    ),
    "event file": Reader(
        ["harness.watch.event_file", "harness.watch.recordings"], _event_file, _user_errors, [bytes(40)]
    ),
    "curve": Reader(
        ["harness.watch.recordings", "csv"], _csv, _user_errors, [b"step,loss,grad_norm\n1,2.5,1\n2,2.4,1\n"]
    ),
}
"""By name."""


def read(name: str, content: bytes) -> None:
    """Has a reader read something; whatever it does not say that it raises comes out."""
    reader = READERS[name]
    try:
        reader.read(content)
    except reader.raises():
        return


def main() -> None:
    import importlib

    import atheris

    name, corpus = sys.argv[1], Path(sys.argv[2])
    sys.path.insert(0, str(REPOSITORY))
    with atheris.instrument_imports(include=list(READERS[name].modules)):
        for module in READERS[name].modules:
            importlib.import_module(module)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, begin in enumerate(READERS[name].begins):
        (corpus / f"begin-{number}").write_bytes(begin)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        globals()["_FOLDER"] = Path(folder)
        atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda content: read(name, content))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
