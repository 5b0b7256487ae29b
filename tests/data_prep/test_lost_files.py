"""Among many lines a file that gives no document is noticed, however few lines it has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tokenized import content_of, make, read_channel

from data_prep.channels.tokenize_channel import ChannelJob
from data_prep.text.input_files import find_inputs
from data_prep.text.read_documents import MAX_LINE_BYTES
from harness.errors import DataError
from harness.tokenizers.tokenizer import Tokenizer

DOCUMENTS = [{"text": f"document {number}"} for number in range(200)]
LOST = {
    "an object around all documents": (json.dumps({"data": DOCUMENTS}).encode() + b"\n", "no key 'text'"),
    "carriage returns": (
        b"".join(json.dumps(each).encode() + b"\r" for each in DOCUMENTS),
        "the lines end with carriage returns alone",
    ),
    "one long line": (b'{"text": "' + b"x" * MAX_LINE_BYTES + b'"}\n', f"longer than {MAX_LINE_BYTES} bytes"),
    "another key": (b'{"body": "one"}\n\n{"body": "two"}\n', "no key 'text'"),
    "empty lines first": (b"\n \n[INFO] fetched\n", "not JSON"),
    "another packing": (b"\x1f\x9d\x90" + bytes(100), "not UTF-8"),
}


@pytest.mark.parametrize("name", list(LOST))
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_file_without_a_document_is_refused_by_name_with_its_first_reason(
    job: ChannelJob, tokenizer: Tokenizer, tmp_path: Path, name: str, place: int
) -> None:
    content, reason = LOST[name]
    (tmp_path / "lost.jsonl").write_bytes(content)
    files = [*job.inputs[:place], tmp_path / "lost.jsonl", *job.inputs[place:]]
    lossy = replace(job, inputs=files, max_rejected_share=0.5)
    with pytest.raises(
        DataError, match=r"lost\.jsonl: the file has not one document\. The first reason, of line"
    ) as at:
        make(lossy, tokenizer)
    assert reason in str(at.value)
    assert "--max-rejected-share 1" in str(at.value)
    # After an interruption it is refused too, and by that option it is accepted.
    with pytest.raises(DataError, match="has not one document"):
        make(lossy, tokenizer)
    result = make(replace(lossy, max_rejected_share=1), tokenizer)
    assert result.totals.documents == 300
    make(replace(job, folder=tmp_path / "plain"), tokenizer)
    assert read_channel(lossy.folder) == read_channel(tmp_path / "plain")


def test_a_file_that_is_continued_within_has_given_documents(
    job: ChannelJob, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.text.reader.BATCH_DOCUMENTS", 7)
    first = Path(str(job.inputs[0]))
    # 200 documents fill more than one part; behind the last border there are only lines that are none.
    first.write_bytes(first.read_bytes() + b"no JSON\n" * 3)
    strict = replace(job, inputs=[first], max_rejected_share=0.001, tokens_per_part=500)
    with pytest.raises(DataError, match="3 of 203 lines"):
        make(strict, tokenizer)
    begun = content_of(strict.folder)
    assert "part-00001.bin" in begun
    result = make(replace(strict, max_rejected_share=0.5), tokenizer)
    assert (result.totals.documents, result.totals.rejected) == (200, 3)


def test_empty_files_are_told_and_lose_nothing(job: ChannelJob, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_bytes(b"\n\n")
    told: list[str] = []
    files = find_inputs([str(tmp_path)], told.append)
    assert len(files) == 4
    assert told == [f"input {tmp_path}: of 0 bytes, so without any text: {tmp_path}/empty.jsonl"]
    assert make(replace(job, inputs=files), tokenizer).totals.documents == 300
