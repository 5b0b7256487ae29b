"""Damaged and absurd settings of Hugging Face folders: refused with the key, or taken; no traceback, no gigabytes.

Every value of every family's `config.json` becomes one of another kind or size; the index and the other files are
damaged too.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hugging_face_models import VARIANTS, VOCAB_SIZE, write_internlm2, write_minimind, write_model, write_tokenizer

from checkpoint_tools.families.registry import FAMILIES
from checkpoint_tools.original_settings import original_settings
from checkpoint_tools.their_model import checked_moves
from checkpoint_tools.their_tensors import open_model
from checkpoint_tools.transformers_model import require_shapes
from harness.cli import run
from harness.errors import EXIT_BAD_DATA, CheckpointError

INDEX = "model.safetensors.index.json"
VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, "", "x", "1", "\u202e" * 5000),
    *(0, -1, 3, 10**9, 10**29, 2**31, 0.5, -0.5, 5e-324, 1e300),
    *([None], [[]], {"type": "x"}, {"a": 1}, ["full_attention"] * 2, ["x"] * 10_000),
)
WRITERS: dict[str, Callable[[Path], Path]] = {
    **{
        variant.model_type: lambda folder, variant=variant: write_model(folder, variant)  # type: ignore[misc]
        for variant in VARIANTS
    },
    "internlm2": write_internlm2,
    "minimind": write_minimind,
}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in several files, with a tokenizer."""
    folder = tmp_path_factory.mktemp("sharded") / "given"
    write_model(folder, VARIANTS[0]._replace(changes={"vocab_size": VOCAB_SIZE}), shard_size="40KB")
    write_tokenizer(folder)
    return folder


@pytest.fixture
def folder(sharded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sharded, tmp_path / "given")


def paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a value."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from paths(part, (*path, key))


def changed(whole: Any, path: tuple[Any, ...], value: object) -> Any:
    """A copy with another value at a place."""
    found = copy.deepcopy(whole)
    place = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return found


def refusal(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(["convert", "from-hf", str(folder), str(tmp_path / "out")]) == EXIT_BAD_DATA
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert len(told) < 3000
    return told


def test_every_family_is_here() -> None:
    assert set(WRITERS) == set(FAMILIES)


@pytest.mark.parametrize("model_type", WRITERS)
def test_any_value_of_a_config_json_may_be_another(model_type: str, tmp_path: Path) -> None:
    folder = WRITERS[model_type](tmp_path / "given")
    whole = json.loads((folder / "config.json").read_text())
    cases = [(path, value) for path in paths(whole) for value in VALUES]
    for path, value in random.Random(1).sample(cases, 150):
        content = json.dumps(changed(whole, path, value)).encode()
        (folder / "config.json").write_bytes(content)
        try:
            theirs = open_model(folder)
            checked_moves(theirs)
            require_shapes(theirs)
        except CheckpointError as error:
            assert len(str(error)) < 2000, (path, value)
        else:
            original_settings(theirs.fields, None, theirs.model.vocab_size)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 10_000),
        ("num_attention_heads", 10**9),
        ("hidden_size", 2**24),
        ("vocab_size", 2**24),
        ("vocab_size", 10**29),
        ("intermediate_size", -1),
        ("rms_norm_eps", "1e-5"),
        ("num_key_value_heads", True),
        ("max_position_embeddings", 1e300),
    ],
)
def test_absurd_sizes_cost_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: object
) -> None:
    """They are held against bounds and against the tensors that are there, before anything is made of them."""
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, key: value}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = refusal(folder, tmp_path, capsys)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 1024
    assert key in told or "model.layers." in told or "model.embed_tokens.weight" in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not valid JSON"),
        (b"\xff\xfe{\x00}\x00", "is not valid JSON: not UTF-8 at byte 0"),
        (b'{"a": ' * 100_000, "is not valid JSON: nested deeper than 100 levels"),
        (b'{"hidden_size": NaN}', "NaN is not JSON"),
        (b'{"hidden_size": 1e999}', "1e999 is larger than any float"),
        (b'{"hidden_size": 1, "hidden_size": 2}', "hidden_size is there twice"),
        (b'{"model_type": "\\ud800"}', "half of a surrogate pair"),
        (b"[1]", "holds no JSON object"),
        (b"7" * 10_000, "a number of 10000 digits"),
        (b'{"model_type": ["llama"]}', "config.json says model_type a list of 1"),
    ],
)
def test_a_config_json_that_is_none(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    (folder / "config.json").write_bytes(content)
    assert words in refusal(folder, tmp_path, capsys)


def test_files_without_an_end_and_pipes_are_not_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder / INDEX).open("wb") as file:
        file.truncate(10**12)
    assert "is larger than 64 MiB" in refusal(folder, tmp_path, capsys)
    for name in (INDEX, "config.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert f"{name} cannot be read: not a regular file" in refusal(folder, tmp_path, capsys)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "a\0b.safetensors", 7, None, ["a"], "", "x.bin", "y" * 500]
)
def test_an_index_names_files_of_its_folder_only(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: object
) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = name
    (folder / INDEX).write_text(json.dumps(index))
    assert "which is not allowed" in refusal(folder, tmp_path, capsys)


def test_any_byte_of_an_index_may_be_another(folder: Path) -> None:
    whole, draw = (folder / INDEX).read_bytes(), random.Random(2)
    for _ in range(300):
        content = bytearray(whole)
        place = draw.randrange(len(content))
        content[place : place + draw.choice([0, 1, 9])] = draw.randbytes(draw.choice([0, 1, 5]))
        (folder / INDEX).write_bytes(bytes(content))
        try:
            checked_moves(open_model(folder))
        except CheckpointError as error:
            assert len(str(error)) < 3000


def test_an_index_of_many_more_tensors(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= {f"t{number}": "model-00001-of-00005.safetensors" for number in range(10**5)}
    (folder / INDEX).write_text(json.dumps(index))
    assert "index and files differ on 100000 tensors" in refusal(folder, tmp_path, capsys)


@pytest.mark.parametrize("content", [b"", b"[", b"\xff", b'{"a": NaN}', b"[" * 100_000, b"null", b'"x"', b"7" * 5000])
def test_a_damaged_generation_config_is_left_out_and_told(content: bytes) -> None:
    found = original_settings({}, content, 8)
    assert found.generation_config is None
    assert "transformers cannot read its generation_config.json" in found.warnings[0]
    assert len(found.warnings[0]) < 500


def test_settings_of_generation_of_wrong_kinds() -> None:
    keys = ("temperature", "top_k", "max_length", "stop_strings", "watermarking_config", "bad_words_ids", "num_beams")
    for key in (*keys, "eos_token_id", "pad_token_id", "attention_dropout", "use_cache", "tokenizer_class"):
        for value in VALUES:
            original_settings({key: value}, None, 8)
            original_settings({}, json.dumps({key: value}).encode(), 8)
