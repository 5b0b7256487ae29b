"""Which files a channel holds is known by their content; a call that fails leaves the channel as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tokenized import make, read_channel, silent, write_lines

from data_prep.channels.append_files import AppendResult, opened_append
from data_prep.channels.channel_job import ChannelJob
from data_prep.channels.input_records import record_inputs
from data_prep.text.input_file import RemoteFile
from data_prep.verbs.append_verb import append
from data_prep.verbs.channel_verbs import verify
from harness.channels.source import InputRecord, read_source
from harness.errors import DataError, UsageError
from harness.tokenizers.tokenizer import Tokenizer


@pytest.fixture
def channel(job: ChannelJob, tokenizer: Tokenizer, tmp_path: Path) -> ChannelJob:
    """A finished channel of one file, `a.jsonl`."""
    file = write_lines(tmp_path / "a.jsonl", {"text": "first"}, {"text": "text"})
    job = replace(job, inputs=[file])
    make(job, tokenizer)
    return job


def other(job: ChannelJob, *texts: str, name: str = "a.jsonl") -> Path:
    """A file beside the channel's own, in another folder."""
    folder = job.folder.with_name("other")
    folder.mkdir(exist_ok=True)
    return write_lines(folder / name, *({"text": text} for text in texts))


def add(folder: Path, files: list[Path], tokenizer: Tokenizer, **options: bool) -> AppendResult:
    with opened_append(folder, files, tokenizer, **options) as call:
        return call.run(tokenizer, silent)


def texts_of(folder: Path, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(document[:-1]) for document in read_channel(folder)]


def command(job: ChannelJob, model_file: Path, *files: Path) -> Result:
    options = ("--tokenizer", model_file, "--channel", job.folder.name, "--output", job.folder.parent)
    return CliRunner().invoke(append, [str(argument) for argument in (*files, *options)])


def test_other_text_of_equal_name_and_size_is_not_taken_for_known(channel: ChannelJob, tokenizer: Tokenizer) -> None:
    file = other(channel, "tsrif", "text")
    with pytest.raises(UsageError, match=r"a\.jsonl has 35 bytes, and the channel .* with 35 and other content"):
        add(channel.folder, [file], tokenizer)
    add(channel.folder, [file], tokenizer, accept_same_names=True)
    assert texts_of(channel.folder, tokenizer) == ["first", "text", "tsrif", "text"]
    with opened_append(channel.folder, [file, *channel.inputs], tokenizer) as call:
        assert not call.job.inputs and [str(known) for known in call.known] == ["a.jsonl", "a.jsonl"]


def test_a_renamed_copy_is_left_out_with_a_word(channel: ChannelJob, model_file: Path, tokenizer: Tokenizer) -> None:
    result = command(channel, model_file, other(channel, "first", "text", name="b.jsonl"), other(channel, "new"))
    assert isinstance(result.exception, UsageError)  # a.jsonl of other content
    copy, new = other(channel, "first", "text", name="b.jsonl"), other(channel, "new", name="c.jsonl")
    result = command(channel, model_file, copy, new)
    assert result.exception is None
    assert "the channel holds b.jsonl (as a.jsonl) already: left out" in result.stderr
    assert texts_of(channel.folder, tokenizer) == ["first", "text", "new"]


def test_files_of_earlier_versions_are_known_by_name_and_size(channel: ChannelJob, tokenizer: Tokenizer) -> None:
    source = channel.folder / "source.json"
    content = json.loads(source.read_text())
    source.write_text(json.dumps(content | {"inputs": [entry[:2] for entry in content["inputs"]]}))
    recorded = read_source(channel.folder)
    assert recorded is not None and recorded.inputs == (InputRecord("a.jsonl", 35),)
    with opened_append(channel.folder, [other(channel, "tsrif", "text")], tokenizer) as call:
        assert [known.name for known in call.known] == ["a.jsonl"]
    assert make(channel, tokenizer).was_there


def test_tokenize_does_not_take_other_text_for_the_channels_own(channel: ChannelJob, tokenizer: Tokenizer) -> None:
    changed = replace(channel, inputs=[other(channel, "tsrif", "text")])
    with pytest.raises(UsageError, match=r"inputs: there a\.jsonl \(35 bytes, content .*, now a\.jsonl \(35 b"):
        make(changed, tokenizer)
    assert make(channel, tokenizer).was_there


def test_beginning_end_and_size_make_the_record(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096 * 3  # 3 MiB
    middle, last = bytearray(content), bytearray(content)
    middle[len(content) // 2] ^= 1
    last[-1] ^= 1
    for name, each in (("a", content), ("b", content), ("middle", middle), ("last", last), ("short", content[:-1])):
        (tmp_path / name).write_bytes(each)
    (tmp_path / "empty").touch()
    names = ("a", "b", "middle", "last", "short", "empty")
    found = {entry.name: entry.xxh3 for entry in record_inputs([tmp_path / name for name in names])}
    assert found["a"] == found["b"] == found["middle"]
    assert len({found[name] for name in ("a", "last", "short", "empty")}) == 4
    with pytest.raises(DataError, match=r"input .*/no: cannot be read \(No such file"):
        record_inputs([tmp_path / "no"])


def test_files_far_away_are_recorded_alike(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    for name, size in (("x.jsonl", 10), ("y.jsonl", (5 << 20) + 3)):
        content = bytes(number % 251 for number in range(size))
        (tmp_path / name).write_bytes(content)
        fsspec.filesystem("memory").pipe(f"/recorded/{name}", content)
        far = RemoteFile(f"memory://recorded/{name}")
        assert record_inputs([far]) == record_inputs([tmp_path / name])


@pytest.mark.parametrize("content", ["", "\n\n", "no JSON\n" * 9, '{"other": "key"}\n'])
def test_a_call_that_fails_leaves_the_channel_finished(
    channel: ChannelJob, model_file: Path, tokenizer: Tokenizer, content: str
) -> None:
    source, bad = channel.folder / "source.json", other(channel, name="bad.jsonl")
    before = source.read_bytes()
    bad.write_text(content)
    assert isinstance(command(channel, model_file, bad).exception, DataError)
    assert source.read_bytes() == before
    assert make(channel, tokenizer).was_there
    assert CliRunner().invoke(verify, [str(channel.folder)]).stdout.startswith(f"{channel.folder}: good, ")
    assert add(channel.folder, [other(channel, "new", name="c.jsonl")], tokenizer).channel.documents == 3


def test_rejected_lines_of_finished_calls_stay_listed(channel: ChannelJob, tokenizer: Tokenizer) -> None:
    def lines() -> list[str]:
        return [
            Path(json.loads(line)["file"]).name for line in (channel.folder / "rejected.jsonl").read_text().splitlines()
        ]

    good = other(channel, *(f"text {number}" for number in range(200)), name="b.jsonl")
    with good.open("a") as file:
        file.write("not JSON\n")
    add(channel.folder, [good], tokenizer)
    bad = other(channel, name="bad.jsonl")
    bad.write_text("not JSON\n" * 3)
    with pytest.raises(DataError, match="has not one document"):
        add(channel.folder, [bad], tokenizer)
    assert lines() == ["b.jsonl", *["bad.jsonl"] * 3]
    add(channel.folder, [other(channel, "new", name="c.jsonl")], tokenizer)
    assert lines() == ["b.jsonl"]
