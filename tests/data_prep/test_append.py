"""`harness data append`: further files behind those of a channel, every document once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tokenized import content_of, make, read_channel, silent, write_lines

from data_prep.channels.append_files import AppendResult, opened_append
from data_prep.channels.channel_job import ChannelJob
from data_prep.channels.count import count_channel
from data_prep.channels.merge import merge_channels
from data_prep.verbs.append_verb import append
from data_prep.verbs.data_verbs import tokenize
from harness.channels.channels import further_parts, open_channel
from harness.channels.source import read_source
from harness.config.schema import ChannelConfig
from harness.errors import DataError, UsageError
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer


@pytest.fixture
def later(job: ChannelJob, poems: list[str], tmp_path: Path) -> list[Path]:
    """Two more files, of 60 and 40 poems."""
    texts = [poem[::-1] for poem in poems[:100]]
    first = write_lines(tmp_path / "2.jsonl", *({"text": text} for text in texts[:60]))
    return [first, write_lines(tmp_path / "3.jsonl", *({"text": text} for text in texts[60:]))]


def add(folder: Path, files: list[Path], tokenizer: Tokenizer, **options: bool) -> AppendResult:
    with opened_append(folder, files, tokenizer, **options) as call:
        return call.run(tokenizer, silent)


def texts_of(folder: Path, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(document[:-1]) for document in read_channel(folder)]


def test_parts_come_behind_those_that_are_there(
    job: ChannelJob, later: list[Path], tokenizer: Tokenizer, poems: list[str]
) -> None:
    first = make(job, tokenizer)
    before = content_of(job.folder)
    one = add(job.folder, later[:1], tokenizer)
    two = add(job.folder, later[1:], tokenizer)
    assert texts_of(job.folder, tokenizer) == [*poems, *(poem[::-1] for poem in poems[:100])]
    assert (one.added.documents, two.added.documents, two.channel.documents) == (60, 40, 400)
    assert one.num_new_parts >= 2 and two.num_parts == first.num_parts + one.num_new_parts + two.num_new_parts
    after = content_of(job.folder)
    assert all(after[name] == content for name, content in before.items() if name.startswith("part-"))
    assert after["parts.jsonl"].startswith(before["parts.jsonl"])
    recorded = read_source(job.folder)
    assert recorded is not None and recorded.finished == two.channel
    assert [entry.name for entry in recorded.inputs] == ["0.jsonl", "1.jsonl.gz", "2.jsonl", "3.jsonl"]
    assert count_channel(job.folder).documents == 400


def test_a_run_adopts_the_new_parts(job: ChannelJob, later: list[Path], tokenizer: Tokenizer) -> None:
    make(job, tokenizer)
    channel = open_channel("zh", ChannelConfig(path=job.folder))
    result = add(job.folder, later, tokenizer)
    new = further_parts(channel, job.folder)
    assert (len(new), sum(part.num_documents for part in new)) == (result.num_new_parts, 100)


KILLED = """
import os, signal, sys
from pathlib import Path
import data_prep.channels.indexed_writer as indexed_writer
import data_prep.text.reader
from data_prep.channels.append_files import opened_append
from harness.tokenizers.tokenizer import open_tokenizer

folder, model, part, *files = sys.argv[1:]
data_prep.text.reader.BATCH_DOCUMENTS = 7
append_durably = indexed_writer.append_durably

def append_or_die(file, lines):
    if f"part-{int(part):05d}" in lines[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    append_durably(file, lines)

indexed_writer.append_durably = append_or_die
tokenizer = open_tokenizer(Path(model))
with opened_append(Path(folder), [Path(file) for file in files], tokenizer) as call:
    call.run(tokenizer, lambda totals, bytes_read: None)
"""


def killed(folder: Path, model_file: Path, part: int, files: list[Path]) -> None:
    command = [sys.executable, "-c", KILLED, str(folder), str(model_file), str(part), *map(str, files)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_a_killed_call_is_continued_to_the_same_bytes(
    job: ChannelJob,
    later: list[Path],
    tokenizer: Tokenizer,
    model_file: Path,
    tmp_path: Path,
    killed_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("data_prep.text.reader.BATCH_DOCUMENTS", 7)
    with later[0].open("a") as file:
        file.write("not JSON\n\n")
    with job.inputs[0].open("a") as file:  # type: ignore[union-attr]
        file.write("not JSON either\n")
    job = replace(job, tokens_per_part=2000)
    whole = replace(job, folder=tmp_path / "whole" / "zh")
    for each in (job, whole):
        num_parts = make(each, tokenizer).num_parts
    with opened_append(whole.folder, later, tokenizer) as call:
        expected = replace(call, job=replace(call.job, max_rejected_share=0.1)).run(tokenizer, silent)
    killed(job.folder, model_file, num_parts + killed_at, later)
    assert count_channel(job.folder).finished is False
    with pytest.raises(UsageError, match=r"`harness data append` was interrupted \(2\.jsonl .*\)\. Run that again"):
        make(job, tokenizer)
    with opened_append(job.folder, later, tokenizer) as call:
        assert replace(call, job=replace(call.job, max_rejected_share=0.1)).run(tokenizer, silent) == expected
    assert content_of(job.folder) == content_of(whole.folder)
    rejected = (job.folder / "rejected.jsonl").read_text().splitlines()
    assert [Path(json.loads(line)["file"]).name for line in rejected] == ["0.jsonl", "2.jsonl"]
    assert (expected.added.rejected, expected.added.empty, expected.channel.rejected) == (1, 1, 2)


def test_an_interrupted_call_goes_on_first_and_needs_its_files(
    job: ChannelJob, later: list[Path], tokenizer: Tokenizer, model_file: Path
) -> None:
    job = replace(job, tokens_per_part=1000)
    num_parts = make(job, tokenizer).num_parts
    killed(job.folder, model_file, num_parts + 1, later[:1])
    with pytest.raises(UsageError, match=r"that added 2\.jsonl \(.* bytes\) was interrupted, with some .*Name these"):
        add(job.folder, later[1:], tokenizer)
    with opened_append(job.folder, [*reversed(later)], tokenizer) as call:
        assert (list(call.job.inputs), list(call.later)) == (later[:1], later[1:])
        assert call.run(tokenizer, silent).channel.documents == 360


def test_of_an_interrupted_call_without_a_part_nothing_is_left(
    job: ChannelJob, later: list[Path], tokenizer: Tokenizer, model_file: Path
) -> None:
    num_parts = make(job, tokenizer).num_parts
    killed(job.folder, model_file, num_parts, later[:1])
    assert add(job.folder, later[1:], tokenizer).channel.documents == 340
    assert add(job.folder, later, tokenizer).channel.documents == 400


def test_files_that_the_channel_holds_are_left_out(job: ChannelJob, later: list[Path], tokenizer: Tokenizer) -> None:
    make(job, tokenizer)
    files = [*map(Path, map(str, job.inputs)), *later]
    with opened_append(job.folder, files, tokenizer) as call:
        assert ([file.name for file in call.known], list(call.job.inputs)) == (["0.jsonl", "1.jsonl.gz"], later)
        call.run(tokenizer, silent)
    with opened_append(job.folder, files, tokenizer) as call:
        assert not call.job.inputs
    # The whole input, as it is now, is what the channel is made of.
    assert make(replace(job, inputs=files), tokenizer).was_there
    assert make(job, tokenizer).was_there
    with pytest.raises(UsageError, match=r"(?s)inputs: there 0\.jsonl .*`harness data append`"):
        make(replace(job, inputs=files[1:]), tokenizer)


def test_a_file_that_has_grown_is_refused_unless_it_is_another(
    job: ChannelJob, later: list[Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    make(job, tokenizer)
    (tmp_path / "other").mkdir()
    same_name = later[0].rename(tmp_path / "other" / "0.jsonl")
    with pytest.raises(UsageError, match=r"0\.jsonl has [\d,]+ bytes, and the channel holds a file of that name with"):
        add(job.folder, [same_name], tokenizer)
    assert add(job.folder, [same_name], tokenizer, accept_same_names=True).channel.documents == 360


def test_the_settings_of_the_channel_are_kept(
    job: ChannelJob, poems: list[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    first = write_lines(tmp_path / "a.jsonl", *({"body": poem} for poem in poems[:50]))
    settings = replace(
        job, inputs=[first], text_key="body", append_end_of_document=False, max_document_tokens=20,
        long_documents="split", tokens_per_part=400,
    )  # fmt: skip
    make(settings, tokenizer)
    second = write_lines(tmp_path / "b.jsonl", *({"body": poem} for poem in poems[50:100]))
    add(job.folder, [second], tokenizer)
    both = replace(settings, inputs=[first, second], folder=tmp_path / "both")
    make(both, tokenizer)
    assert read_channel(job.folder) == read_channel(both.folder)
    assert len((job.folder / "parts.jsonl").read_text().splitlines()) > 8


def test_a_merged_channel_takes_files_too(job: ChannelJob, later: list[Path], tokenizer: Tokenizer) -> None:
    make(job, tokenizer)
    merged = job.folder.with_name("merged")
    merge_channels([job.folder], merged, None, lambda num_bytes: None)
    result = add(merged, later, tokenizer)
    assert (result.num_parts, result.channel.documents) == (2, 400)


def test_what_cannot_be_added_to_is_refused(
    job: ChannelJob, later: list[Path], tokenizer: Tokenizer, json_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"there is no channel that `harness data tokenize` made .*Check --output"):
        add(tmp_path / "no", later, tokenizer)
    make(job, tokenizer)
    with pytest.raises(UsageError, match=r"was made with another tokenizer, tokenizer\.model .*name the one that made"):
        add(job.folder, later, open_tokenizer(json_file))
    with opened_append(job.folder, later, tokenizer), pytest.raises(UsageError, match="by another process"):
        add(job.folder, later, tokenizer)
    source = job.folder / "source.json"
    source.write_text(json.dumps(json.loads(source.read_text()) | {"finished": None}))
    with pytest.raises(UsageError, match=r"the channel is not finished\. Run `harness data tokenize` again"):
        add(job.folder, later, tokenizer)
    source.unlink()
    with pytest.raises(UsageError, match="there is no channel that"):
        add(job.folder, later, tokenizer)


def test_bad_input_adds_nothing_and_can_be_corrected(job: ChannelJob, later: list[Path], tokenizer: Tokenizer) -> None:
    make(job, tokenizer)
    parts = (job.folder / "parts.jsonl").read_bytes()
    good = later[0].read_text()
    later[0].write_text("not JSON\n" * 9 + '{"text": "one"}\n')
    with pytest.raises(DataError, match=r"9 of 10 lines .* are not documents; .*\. Correct the input, or run the same"):
        add(job.folder, later[:1], tokenizer)
    assert (job.folder / "parts.jsonl").read_bytes() == parts
    later[0].write_text(good)
    assert add(job.folder, later[:1], tokenizer).channel.documents == 360
    assert (job.folder / "rejected.jsonl").read_text() == ""


def call(command: str, *arguments: object) -> Result:
    verb = {"append": append, "tokenize": tokenize}[command]
    return CliRunner().invoke(verb, [str(argument) for argument in arguments])


def test_the_command_says_what_it_adds_and_what_is_there(
    job: ChannelJob, later: list[Path], model_file: Path, tmp_path: Path
) -> None:
    options = ("--tokenizer", model_file, "--channel", "zh", "--output", tmp_path / "data")
    folder = tmp_path / "data" / "zh"
    assert call("tokenize", *job.inputs, *options).exception is None
    result = call("append", *job.inputs, *later, *options)
    assert result.exception is None
    assert "append zh: the channel holds 0.jsonl, 1.jsonl.gz already: left out" in result.stderr
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{folder}: added 1 part, 100 documents, ")
    assert second.startswith("  the channel has 2 parts, 400 documents, ")
    again = call("append", *job.inputs, *later, *options)
    assert again.stdout == f"{folder}: nothing to add; all files are in the channel already\n"
    wrong = call("append", *later, *options[:2], "--channel", "../zh", *options[4:]).exception
    assert isinstance(wrong, UsageError) and "cannot be the name of a channel" in str(wrong)
