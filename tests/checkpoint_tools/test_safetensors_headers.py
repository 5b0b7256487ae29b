"""Headers of safetensors files that do not describe their bytes are refused in one line, at once."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hugging_face_models import VARIANTS, write_model

from harness.cli import run
from harness.errors import EXIT_BAD_DATA

NAME = "model.norm.weight"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("headers") / "given", VARIANTS[0])


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def mutate(content: bytes) -> bytes:
        header, data = header_of(content)
        change(header)
        return with_header(json.dumps(header).encode(), data)

    return mutate


def field(name: str, value: object) -> Callable[[bytes], bytes]:
    return changed(lambda header: header[NAME].update({name: value}))


def twice(content: bytes) -> bytes:
    """One name for two tensors, of which each reader takes another one."""
    header, data = header_of(content)
    text = json.dumps(header)
    return with_header((text[:-1] + f', "{NAME}": {json.dumps(header[NAME])}}}').encode(), data)


def overlapping(header: dict[str, Any]) -> None:
    """Two tensors of one size on the same bytes, with a hole of that size."""
    names = [name for name in header if name.endswith("input_layernorm.weight")]
    header[names[0]]["data_offsets"] = header[names[1]]["data_offsets"]


CASES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _: b"", "it ends within its header"),
    "a length beyond the end": (lambda content: b"\xff" * 8 + content[8:], "it ends within its header"),
    "no JSON": (lambda content: with_header(b"{", b""), "its header is wrong"),
    "a list": (lambda content: with_header(b"[]", b""), "it is no JSON object"),
    "deep": (lambda content: with_header(b'{"a":' + b"[" * 10_000, b""), "its header is wrong"),
    "twice": (twice, f"{NAME} is there twice"),
    "overlapping": (changed(overlapping), "belong to no tensor, or to two"),
    "too short": (lambda content: content[:-1], "the file has"),
    "too long": (lambda content: content + b"\0", "the file has"),
    "a shape below zero": (field("shape", [-1]), "is no list of counts"),
    "an absurd shape": (field("shape", [2**40, 2**40]), "its shape is"),
    "a shape of text": (field("shape", "1"), "is no list of counts"),
    "a shape of truth": (field("shape", [True]), "is no list of counts"),
    "many dimensions": (field("shape", [1] * 1000), "its shape is"),
    "another shape": (field("shape", [3]), "numbers of"),
    "no format": (field("dtype", None), "its number format is None"),
    "an unknown format": (field("dtype", "F33"), "its number format is 'F33'"),
    "offsets backwards": (field("data_offsets", [64, 0]), "its data_offsets are"),
    "offsets of nothing": (field("data_offsets", []), "its data_offsets are"),
    "absurd offsets": (field("data_offsets", [0, 2**62]), "is no list of counts"),
    "a key more": (field("x", 1), "it has other keys"),
    "a tensor that is none": (changed(lambda header: header.update({NAME: 1})), "it has other keys"),
    "a name with a NUL": (changed(lambda header: header.update({"a\0b": header[NAME]})), "it gives a tensor the name"),
    "a name with an escape": (changed(lambda header: header.update({"\x1b[2J": 1})), "it gives a tensor the name"),
    "metadata of numbers": (changed(lambda header: header.update(__metadata__={"a": 1})), "else than text"),
    "many tensors": (
        lambda _: with_header(b"{" + b",".join(b'"%d":0' % number for number in range(4_000_000)) + b"}", b""),
        "has a header of more than 32 MiB",
    ),
}


@pytest.mark.parametrize(("mutate", "told"), CASES.values(), ids=CASES)
def test_a_wrong_header(
    plain: Path,
    tmp_path: Path,
    mutate: Callable[[bytes], bytes],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "given"))
    path = folder / "model.safetensors"
    path.write_bytes(mutate(path.read_bytes()))
    for command in (
        ("convert", "from-hf", folder, tmp_path / "out"),
        ("convert", "check", plain, folder),
        ("checkpoint", "inspect", folder),
    ):
        began = time.monotonic()
        assert run([*map(str, command)]) == EXIT_BAD_DATA
        err = capsys.readouterr().err
        assert str(path) in err
        assert told in err
        assert len(err.splitlines()) == 1
        assert time.monotonic() - began < 20
    assert not list(tmp_path.glob("out*"))
