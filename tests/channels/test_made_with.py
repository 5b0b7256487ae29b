"""Channels are held against the tokenizer of a run by what their source.json records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_tokenizers import TEXTS, byte_level
from tokenizers import AddedToken

from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
from harness.channels.made_with import compare_channels, paths_in_use, require_tokenizer, source_of
from harness.cli import run
from harness.config.schema import Config
from harness.errors import EXIT_BAD_DATA, EXIT_USAGE, UsageError
from harness.tokenizers.identity import identity_of
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer


def write_tokenizer(folder: Path, **changes: Any) -> Tokenizer:
    folder.mkdir(parents=True)
    tokenizer = byte_level(**changes)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in changes.get("words", ())])
    tokenizer.save(str(folder / "tokenizer.json"))
    return open_tokenizer(folder)


def write_channel(folder: Path, tokenizer: Tokenizer) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    text = folder.with_suffix(".jsonl")
    text.write_text("".join(json.dumps({"text": each}) + "\n" for each in TEXTS))
    tokenize_channel(ChannelJob(inputs=[text], folder=folder), tokenizer, lambda totals, bytes_read: None)
    return folder


@pytest.fixture
def one(tmp_path: Path) -> Tokenizer:
    return write_tokenizer(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Tokenizer:
    """Of equal size, with other pieces."""
    return write_tokenizer(tmp_path / "other", add_prefix_space=True)


def test_channel_of_another_tokenizer_of_equal_size(tmp_path: Path, one: Tokenizer, other: Tokenizer) -> None:
    assert one.vocab_size == other.vocab_size
    paths = {"a": write_channel(tmp_path / "a", one), "b": write_channel(tmp_path / "b", other)}
    assert compare_channels({"a": paths["a"]}, one) == compare_channels({}, one)
    (problem,) = compare_channels(paths, one).problems
    assert problem.startswith(f"b: {paths['b']} was made with another tokenizer") and "data.tokenizer: " in problem
    # Without a tokenizer: with that of the checkpoint, and with each other.
    assert len(compare_channels(paths, identity_of(one), "the checkpoint").problems) == 1
    assert compare_channels(paths, None).problems[0].startswith(f"b: {paths['b']} was made with another tokenizer")


def test_part_of_a_channel_folder_is_of_its_tokenizer(tmp_path: Path, one: Tokenizer, other: Tokenizer) -> None:
    prefix = write_channel(tmp_path / "a", one) / "part-00000"
    linked = tmp_path / "linked" / "x"
    linked.parent.mkdir()
    for ending in (".bin", ".idx"):
        linked.with_suffix(ending).symlink_to(prefix.with_suffix(ending))
    for each in (prefix, linked):
        source = source_of(each)
        assert source is not None and source.tokenizer == identity_of(one)
        assert len(compare_channels({"a": each}, other).problems) == 1


def test_channel_without_a_record_is_taken(tmp_path: Path, one: Tokenizer) -> None:
    folder = write_channel(tmp_path / "a", one)
    (folder / "source.json").unlink()
    assert source_of(folder) is None and compare_channels({"a": folder}, one).problems == ()


def test_channels_that_end_their_documents_differently_are_told(tmp_path: Path, one: Tokenizer) -> None:
    paths = {name: write_channel(tmp_path / name, one) for name in ("a", "b")}
    assert compare_channels(paths, one).notes == ()
    record = json.loads((paths["b"] / "source.json").read_text())
    (paths["b"] / "source.json").write_text(json.dumps(record | {"end_of_document_id": 1}))
    assert compare_channels(paths, one).notes == ("channels end their documents differently: a with 0, b with 1",)


def test_old_and_grown_channels_without_a_tokenizer_are_told_what_helps(tmp_path: Path, one: Tokenizer) -> None:
    grown = write_tokenizer(tmp_path / "grown", words=["telescope"])
    paths = {"a": write_channel(tmp_path / "a", one), "b": write_channel(tmp_path / "b", grown)}
    (problem,) = compare_channels(paths, None).problems
    assert "if one of them grew from the other, name it as data.tokenizer" in problem
    assert compare_channels(paths, grown).problems == ()


def test_merging_what_has_no_record_or_is_not_finished(
    tmp_path: Path, one: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, made = write_channel(tmp_path / "bare", one), write_channel(tmp_path / "made", one)
    (bare / "source.json").unlink()
    assert run(["data", "merge", str(made), str(bare), "--output", str(tmp_path / "merged")]) == 0
    assert f"has no record of its tokenizer, because there is none of {bare}" in capsys.readouterr().err
    record = json.loads((made / "source.json").read_text())
    (made / "source.json").write_text(json.dumps(record | {"finished": None}))
    assert run(["data", "merge", str(made), "--output", str(tmp_path / "two")]) == EXIT_USAGE
    assert "is not finished: the call that makes it still runs, or was interrupted" in capsys.readouterr().err


def test_damaged_record_is_named(tmp_path: Path, one: Tokenizer) -> None:
    folder = write_channel(tmp_path / "a", one)
    (folder / "source.json").write_text("{")
    (problem,) = compare_channels({"a": folder}, one).problems
    assert "source.json: not readable" in problem


def test_channel_of_the_tokenizer_from_which_the_run_grew(tmp_path: Path, one: Tokenizer) -> None:
    grown = write_tokenizer(tmp_path / "grown", words=["telescope"])
    found = compare_channels({"a": write_channel(tmp_path / "a", one)}, grown)
    assert found.problems == () and "330 ids from which data.tokenizer grew to 331" in found.notes[0]
    (problem,) = compare_channels({"b": write_channel(tmp_path / "b", grown)}, one).problems
    assert "it had 331 ids" in problem


def test_record_of_an_earlier_version_knows_the_file(tmp_path: Path, one: Tokenizer, other: Tokenizer) -> None:
    folder = write_channel(tmp_path / "a", one)
    record = json.loads((folder / "source.json").read_text())
    record |= {"tokenizer": one.file_hash, "vocab_size": one.vocab_size}
    (folder / "source.json").write_text(json.dumps(record))
    assert compare_channels({"a": folder}, one).problems == ()
    (problem,) = compare_channels({"a": folder}, other).problems
    assert "knows only the hash of the file" in problem


def test_reading_with_another_one_is_refused(tmp_path: Path, one: Tokenizer, other: Tokenizer) -> None:
    folder = write_channel(tmp_path / "a", one)
    assert require_tokenizer(folder, one) == ()
    with pytest.raises(UsageError, match="was made with another tokenizer"):
        require_tokenizer(folder, other)


def test_held_out_data_and_channels_of_later_phases_are_in_use(tmp_path: Path) -> None:
    phase = {"train_steps": 1, "seq_length": 8, "global_batch_size": 1}
    config = Config.model_validate(
        {
            "run": {"name": "x"},
            "model": {
                "num_layers": 1,
                "hidden_size": 8,
                "num_attention_heads": 1,
                "ffn_hidden_size": 8,
                "vocab_size": 330,
            },
            "data": {
                "channels": {
                    "a": {"path": "a", "validation_path": "held"},
                    "b": {"path": "b"},
                    "c": {"path": "c"},
                    "d": {"path": "d"},
                }
            },
            "phases": [
                {"name": "first", "blend": {"a": 1}, **phase},
                {"name": "last", "blend": {"b": 1}, "evaluation": {"channels": ["c"]}, **phase},
            ],
            "optimizer": {"learning_rate": 1e-3},
        }
    )
    assert {key: path.name for key, path in paths_in_use(config).items()} == {
        "data.channels.a": "a",
        "data.channels.a.validation_path": "held",
        "data.channels.b": "b",
        "data.channels.c": "c",
    }


CONFIG = """
run: {{name: x}}
model: {{num_layers: 1, hidden_size: 32, num_attention_heads: 2, ffn_hidden_size: 64, vocab_size: {rows}}}
data: {{tokenizer: {tokenizer}, channels: {{c: {{path: {path}{more}}}}}}}
phases: [{{name: main, train_steps: 2, seq_length: 16, global_batch_size: 2, blend: {{c: 1}}}}]
optimizer: {{learning_rate: 1e-3}}
launch: {{nodes: 1, gpus_per_node: 0}}
"""


@pytest.mark.parametrize("place", ["path", "validation_path"])
def test_commands_refuse_a_channel_of_another_tokenizer(
    tmp_path: Path, one: Tokenizer, other: Tokenizer, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    good, bad = write_channel(tmp_path / "good", one), write_channel(tmp_path / "bad", other)
    named = {"path": bad, "more": ""} if place == "path" else {"path": good, "more": f", validation_path: {bad}"}
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.format(tokenizer=one.path, rows=330, **named))
    assert run(["preflight", str(file), "--run-dir", str(tmp_path / "run")]) == EXIT_USAGE
    assert "was made with another tokenizer" in capsys.readouterr().err
    assert run(["train", str(file), "--run-dir", str(tmp_path / "run")]) == EXIT_BAD_DATA
    if place == "path":
        assert run(["data", "verify", str(bad), "--tokenizer", str(one.path)]) in (EXIT_USAGE, EXIT_BAD_DATA)
        assert run(["data", "verify", str(good), "--tokenizer", str(one.path)]) == 0


def test_preflight_opens_the_tokenizer(tmp_path: Path, one: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    good, file = write_channel(tmp_path / "good", one), tmp_path / "config.yaml"
    for tokenizer, rows, code, text in (
        (one.path, 330, 0, ""),
        (one.path.parent, 330, 0, ""),  # a folder is fine
        (one.path, 329, EXIT_USAGE, "has 330 ids, but model.vocab_size is 329: set it to 330 or more"),
        (tmp_path / "config.yaml", 330, EXIT_USAGE, "config.yaml: the file begins with"),
        ("null", 329, EXIT_USAGE, "data.channels.c: its tokenizer has 330 ids, but model.vocab_size is 329"),
        ("null", 330, 0, ""),
    ):
        file.write_text(CONFIG.format(tokenizer=tokenizer, rows=rows, path=good, more=""))
        assert run(["preflight", str(file), "--run-dir", str(tmp_path / "run")]) == code
        assert text in capsys.readouterr().err


def test_a_blend_of_two_tokenizers_is_not_planned(
    tmp_path: Path, one: Tokenizer, other: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, tokenizer in (("a", one), ("b", other)):
        write_channel(tmp_path / "data" / name, tokenizer)
    asked = ["data", "mix", str(tmp_path / "data"), "--share", "a=1", "--share", "b=1", "--tokens", "100"]
    assert run(asked) == EXIT_USAGE
    assert "was made with another tokenizer" in capsys.readouterr().err
