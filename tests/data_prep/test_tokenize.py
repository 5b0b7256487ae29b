from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_disk import enlarge, small_disk
from tokenized import content_of, make, read_channel, write_lines

from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
from harness.channels.channels import open_channel
from harness.channels.source import Totals
from harness.config.schema import ChannelConfig
from harness.errors import DataError, UsageError
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer


def test_channel_is_the_documents_in_order(job: ChannelJob, tokenizer: Tokenizer, poems: list[str]) -> None:
    result = make(job, tokenizer)
    documents = read_channel(job.folder)
    assert {document[-1] for document in documents} == {tokenizer.end_of_document_id}
    assert [tokenizer.decode(document[:-1]) for document in documents] == poems
    assert result.totals == Totals(
        lines=300, documents=300, tokens=sum(map(len, documents)), characters=sum(map(len, poems))
    )


def test_training_opens_the_channel(job: ChannelJob, tokenizer: Tokenizer) -> None:
    result = make(job, tokenizer)
    channel = open_channel("zh", ChannelConfig(path=job.folder))
    assert len(channel.parts) == result.num_parts
    assert sum(part.num_tokens for part in channel.parts) == result.totals.tokens
    assert sum(part.num_documents for part in channel.parts) == 300


def test_parts_end_with_the_document_that_fills_them(job: ChannelJob, tokenizer: Tokenizer) -> None:
    result = make(job, tokenizer)
    parts = [json.loads(line) for line in (job.folder / "parts.jsonl").read_text().splitlines()]
    assert [part["prefix"] for part in parts] == [f"part-{number:05d}" for number in range(result.num_parts)]
    assert len(parts) > 5
    assert all(3000 <= part["tokens"] < 3600 for part in parts[:-1])
    assert parts[-1]["tokens"] < 3600


def test_without_end_of_document(job: ChannelJob, tokenizer: Tokenizer) -> None:
    make(replace(job, append_end_of_document=False), tokenizer)
    assert not any(tokenizer.end_of_document_id in document for document in read_channel(job.folder))


def test_bad_lines_are_kept_with_file_line_and_reason(tmp_path: Path, tokenizer: Tokenizer) -> None:
    good = b'{"body": "one"}\n' * 98
    file = tmp_path / "a.jsonl"
    file.write_bytes(good + b"not JSON\n" + b'{"body": "caf\xe9"}\n' + b'{"body": "two"}\n')
    result = make(ChannelJob(inputs=[file], folder=tmp_path / "c", text_key="body", max_rejected_share=0.02), tokenizer)
    assert (result.totals.documents, result.totals.rejected, result.totals.lines) == (99, 2, 101)
    rejected = [json.loads(line) for line in (tmp_path / "c" / "rejected.jsonl").read_text().splitlines()]
    assert rejected == [
        {"file": str(file), "line": 99, "reason": "not JSON (Expecting value: line 1 column 1 (char 0))"},
        {"file": str(file), "line": 100, "reason": "not UTF-8 (byte 0xe9 at position 13)"},
    ]
    assert f"rejected 2 of 101 lines (1.98%), listed in {tmp_path}/c/rejected.jsonl" in result.summary(tmp_path / "c")


def test_too_many_bad_lines_make_no_channel_until_allowed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = write_lines(tmp_path / "a.jsonl", {"text": "one"}, {"text": 1}, {"text": "two"})
    job = ChannelJob(inputs=[file], folder=tmp_path / "c")
    with pytest.raises(
        DataError, match=r"1 of 3 lines \(33\.33%\) are not documents; allowed: 1\.00%\. .*rejected\.jsonl"
    ):
        make(job, tokenizer)
    assert not (tmp_path / "c" / "parts.jsonl").exists()
    result = make(replace(job, max_rejected_share=0.5), tokenizer)
    assert (result.num_parts, result.totals.documents) == (1, 2)


def test_empty_lines_and_texts_are_counted_apart(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "a.jsonl"
    empty = b'\n  \n{"text": ""}\n{"text": " \\n\\t"}\n'
    file.write_bytes(empty * 30 + b'{"text": "one"}\n' * 99 + b"not JSON\n")
    result = make(ChannelJob(inputs=[file], folder=tmp_path / "c"), tokenizer)
    totals = result.totals
    assert (totals.lines, totals.empty, totals.rejected, totals.documents) == (220, 120, 1, 99)
    # The empty ones hide no bad line either.
    assert totals.rejected_share == 0.01
    assert "\n  120 empty lines and documents left out" in result.summary(tmp_path / "c")
    (rejected,) = (tmp_path / "c" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["line"] == 220
    recorded = json.loads((tmp_path / "c" / "source.json").read_text())
    assert recorded["finished"]["empty"] == 120


def test_a_channel_of_before_empty_lines_were_counted_opens(job: ChannelJob, tokenizer: Tokenizer) -> None:
    first = make(job, tokenizer)
    file = job.folder / "source.json"
    recorded = json.loads(file.read_text())
    del recorded["finished"]["empty"]
    file.write_text(json.dumps(recorded))
    assert make(job, tokenizer) == replace(first, was_there=True)


def test_only_empty_documents_are_no_input(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = write_lines(tmp_path / "a.jsonl", {"text": ""}, {"text": " "})
    with pytest.raises(DataError, match=r"no document in the input \(.*a\.jsonl\): 2 empty lines and documents\."):
        make(ChannelJob(inputs=[file], folder=tmp_path / "c"), tokenizer)


@pytest.mark.parametrize("max_rejected_share", [0.01, 1.0])
def test_input_without_documents(tmp_path: Path, tokenizer: Tokenizer, max_rejected_share: float) -> None:
    (tmp_path / "a.jsonl").touch()
    job = ChannelJob(inputs=[tmp_path / "a.jsonl"], folder=tmp_path / "c", max_rejected_share=max_rejected_share)
    with pytest.raises(DataError, match=r"no document in the input \(.*a\.jsonl\): all files are empty"):
        make(job, tokenizer)


def test_two_writers_at_once_are_refused(job: ChannelJob, tokenizer: Tokenizer) -> None:
    def second_call(totals: Totals, bytes_read: int) -> None:
        with pytest.raises(UsageError, match=r"zh is being written by another process\. Wait until it is done"):
            make(job, tokenizer)
        refused.append(bytes_read)

    refused: list[int] = []
    tokenize_channel(job, tokenizer, second_call)
    assert refused


def test_full_disk_is_said_and_finished_parts_stay(job: ChannelJob, tokenizer: Tokenizer) -> None:
    whole = replace(job, folder=job.folder.with_name("whole"))
    make(whole, tokenizer)
    with small_disk(job.folder, 48):
        with pytest.raises(
            DataError, match=r"zh: cannot be written \(.*No space left.*Finished parts are untouched: make room"
        ):
            make(job, tokenizer)
        parts = (job.folder / "parts.jsonl").read_bytes()
        assert 1 <= parts.count(b"\n") < 10
        assert not list(job.folder.glob("part-*.partial"))  # its room is given back
        enlarge(job.folder, 4096)
        make(job, tokenizer)
        assert (job.folder / "parts.jsonl").read_bytes().startswith(parts)
        assert content_of(job.folder) == content_of(whole.folder)


def test_folder_that_is_a_file(job: ChannelJob, tokenizer: Tokenizer) -> None:
    job.folder.parent.mkdir()
    job.folder.touch()
    with pytest.raises(DataError, match="zh: cannot be written"):
        make(job, tokenizer)


def test_progress_counts_up_to_the_whole_input(job: ChannelJob, model_file: Path) -> None:
    seen: list[tuple[int, int]] = []
    tokenize_channel(
        job, open_tokenizer(model_file), lambda totals, bytes_read: seen.append((totals.documents, bytes_read))
    )
    assert seen[-1] == (300, sum(file.stat().st_size for file in job.inputs))


def test_training_reads_whole_parts_while_more_are_written(
    job: ChannelJob, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.text.reader.BATCH_DOCUMENTS", 20)
    seen: list[list[list[int]]] = []

    def look(totals: Totals, bytes_read: int) -> None:
        if (job.folder / "parts.jsonl").exists():
            channel = open_channel("zh", ChannelConfig(path=job.folder))
            assert sum(part.num_tokens for part in channel.parts) <= totals.tokens
            seen.append(read_channel(job.folder))

    tokenize_channel(job, tokenizer, look)
    final = read_channel(job.folder)
    assert len({len(documents) for documents in seen}) > 3
    assert all(documents == final[: len(documents)] for documents in seen)
