from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.choose_encoder import choose_encoder
from data_prep.tokenize import ChannelJob, ChannelResult, tokenize_channel
from data_prep.totals import Totals
from harness.config.schema import ChannelConfig
from harness.data.channels import open_channel
from harness.data.tokenizer import Tokenizer, open_tokenizer
from harness.errors import DataError, UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Megatron warns of every optional package that is missing
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder


def silent(totals: Totals, bytes_read: int) -> None:
    """Shows no progress."""


def write_lines(file: Path, *values: object) -> Path:
    file.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return file


@pytest.fixture
def job(poems: list[str], tmp_path: Path) -> ChannelJob:
    """300 poems in two files; about ten parts."""
    first = write_lines(tmp_path / "0.jsonl", *({"text": poem} for poem in poems[:200]))
    second = tmp_path / "1.jsonl.gz"
    second.write_bytes(gzip.compress("".join(json.dumps({"text": poem}) + "\n" for poem in poems[200:]).encode()))
    return ChannelJob(inputs=[first, second], folder=tmp_path / "data" / "zh", tokens_per_part=3000)


def make(job: ChannelJob, tokenizer: Tokenizer) -> ChannelResult:
    return tokenize_channel(job, tokenizer, silent)


def read_channel(folder: Path) -> list[list[int]]:
    documents = []
    for line in (folder / "parts.jsonl").read_text().splitlines():
        dataset = IndexedDataset(str(folder / json.loads(line)["prefix"]))
        documents += [dataset[i].tolist() for i in range(len(dataset))]
    return documents


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


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
    file.write_bytes(good + b"\n" + b'{"body": "caf\xe9"}\n' + b'{"body": "two"}\n')
    result = make(ChannelJob(inputs=[file], folder=tmp_path / "c", text_key="body", max_rejected_share=0.02), tokenizer)
    assert (result.totals.documents, result.totals.rejected, result.totals.lines) == (99, 2, 101)
    rejected = [json.loads(line) for line in (tmp_path / "c" / "rejected.jsonl").read_text().splitlines()]
    assert rejected == [
        {"file": str(file), "line": 99, "reason": "empty line"},
        {"file": str(file), "line": 100, "reason": "not UTF-8 (byte 0xe9 at position 13)"},
    ]
    assert f"rejected 2 of 101 lines (1.98%), listed in {tmp_path}/c/rejected.jsonl" in result.summary(tmp_path / "c")


def test_too_many_bad_lines_make_no_channel_until_allowed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = write_lines(tmp_path / "a.jsonl", {"text": "one"}, {"text": ""}, {"text": "two"})
    job = ChannelJob(inputs=[file], folder=tmp_path / "c")
    with pytest.raises(
        DataError, match=r"1 of 3 lines \(33\.33%\) are no documents; allowed: 1\.00%\. .*rejected\.jsonl"
    ):
        make(job, tokenizer)
    assert not (tmp_path / "c" / "parts.jsonl").exists()
    result = make(replace(job, max_rejected_share=0.5), tokenizer)
    assert (result.num_parts, result.totals.documents) == (1, 2)


@pytest.mark.parametrize("max_rejected_share", [0.01, 1.0])
def test_input_without_documents(tmp_path: Path, tokenizer: Tokenizer, max_rejected_share: float) -> None:
    (tmp_path / "a.jsonl").touch()
    job = ChannelJob(inputs=[tmp_path / "a.jsonl"], folder=tmp_path / "c", max_rejected_share=max_rejected_share)
    with pytest.raises(DataError, match=r"no document in the input \(.*a\.jsonl\): all files are empty"):
        make(job, tokenizer)


def test_second_call_does_nothing_and_says_what_is_there(job: ChannelJob, tokenizer: Tokenizer) -> None:
    first = make(job, tokenizer)
    before = content_of(job.folder)
    second = make(job, tokenizer)
    assert second == replace(first, was_there=True)
    assert "(finished before; nothing was done)" in second.summary(job.folder)
    assert content_of(job.folder) == before


def test_other_input_or_settings_are_refused_with_the_difference(job: ChannelJob, tokenizer: Tokenizer) -> None:
    make(job, tokenizer)
    before = content_of(job.folder)
    changed = replace(job, inputs=job.inputs[:1], text_key="body", append_end_of_document=False)
    with pytest.raises(UsageError) as error:
        make(changed, tokenizer)
    message = str(error.value)
    assert "already holds a channel made in another way:\n  inputs: there 0.jsonl (" in message
    assert (
        "\n  text_key: there text, now body\n  end_of_document_id: there 1, now None\nNothing was changed." in message
    )
    assert content_of(job.folder) == before


def test_parts_of_another_program_are_left_alone(job: ChannelJob, tokenizer: Tokenizer) -> None:
    make(job, tokenizer)
    (job.folder / "source.json").unlink()
    with pytest.raises(UsageError, match=r"already holds parts that another program made .* Choose another --output"):
        make(job, tokenizer)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"finished": null}'])
def test_unreadable_source_file(job: ChannelJob, tokenizer: Tokenizer, content: str) -> None:
    make(job, tokenizer)
    (job.folder / "source.json").write_text(content)
    with pytest.raises(DataError, match=r"source\.json: not readable .*Restore it, or delete the channel folder"):
        make(job, tokenizer)


KILLED = """
import os, signal, sys
from pathlib import Path
import data_prep.indexed_writer as indexed_writer
from data_prep.choose_encoder import choose_encoder
from data_prep.tokenize import ChannelJob, tokenize_channel
from harness.data.tokenizer import open_tokenizer

folder, model, part, *inputs = sys.argv[1:]
append_line = indexed_writer._append_line

def append_or_die(file, line):
    if f"part-{int(part):05d}" in line:
        os.kill(os.getpid(), signal.SIGKILL)
    append_line(file, line)

indexed_writer._append_line = append_or_die
job = ChannelJob(inputs=[Path(file) for file in inputs], folder=Path(folder), tokens_per_part=3000)
tokenize_channel(job, open_tokenizer(Path(model)), lambda totals, bytes_read: None)
"""


@pytest.mark.parametrize("killed_at_part", [0, 1, 4])
def test_a_killed_call_is_continued_to_the_same_bytes(
    job: ChannelJob, tokenizer: Tokenizer, model_file: Path, tmp_path: Path, killed_at_part: int
) -> None:
    whole = replace(job, folder=tmp_path / "whole" / "zh")
    make(whole, tokenizer)
    command = [sys.executable, "-c", KILLED, str(job.folder), str(model_file), str(killed_at_part)]
    process = subprocess.run([*command, *map(str, job.inputs)], check=False, timeout=120)
    assert process.returncode == -signal.SIGKILL
    # Both files of the part have their names, but without its line the part does not exist.
    assert (job.folder / f"part-{killed_at_part:05d}.idx").exists()
    make(job, tokenizer)
    assert content_of(job.folder) == content_of(whole.folder)


def test_continuing_encodes_only_what_is_left(job: ChannelJob, tokenizer: Tokenizer) -> None:
    finished = make(job, tokenizer)
    parts = (job.folder / "parts.jsonl").read_text().splitlines(keepends=True)
    (job.folder / "parts.jsonl").write_text("".join(parts[:-1]))
    source = json.loads((job.folder / "source.json").read_text())
    (job.folder / "source.json").write_text(json.dumps(source | {"finished": None}))
    counting = CountingTokenizer(tokenizer)
    assert tokenize_channel(job, counting, silent) == finished
    assert counting.num_documents == json.loads(parts[-1])["documents"]


class CountingTokenizer:
    """Counts the documents that are encoded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.num_documents = 0
        self._tokenizer = tokenizer

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        self.num_documents += len(documents)
        return self._tokenizer.encode_documents(documents)

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)


def test_input_that_shrank_in_between_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = write_lines(tmp_path / "a.jsonl", *({"text": "abcd"} for _ in range(9)))
    job = ChannelJob(inputs=[file], folder=tmp_path / "c", tokens_per_part=1)
    make(job, tokenizer)
    source = json.loads((job.folder / "source.json").read_text())
    (job.folder / "source.json").write_text(json.dumps(source | {"finished": None}))
    write_lines(file, {"text": "abcd" + "x" * (file.stat().st_size - 19)}, {})
    write_lines(file, {"text": "x" * (source["inputs"][0][1] - len('{"text": ""}\n'))})
    with pytest.raises(
        DataError, match=r"already holds 9 documents of this input, which now has 1\. The input was changed"
    ):
        make(job, tokenizer)


def test_two_writers_at_once_are_refused(job: ChannelJob, tokenizer: Tokenizer) -> None:
    def second_call(totals: Totals, bytes_read: int) -> None:
        with pytest.raises(UsageError, match=r"zh is being written by another process\. Wait for it"):
            make(job, tokenizer)
        refused.append(bytes_read)

    refused: list[int] = []
    tokenize_channel(job, tokenizer, second_call)
    assert refused


def test_full_disk_is_said_and_finished_parts_stay(job: ChannelJob, tokenizer: Tokenizer) -> None:
    job.folder.mkdir(parents=True)
    (job.folder / "part-00002.bin.partial").symlink_to("/dev/full")
    with pytest.raises(
        DataError, match=r"zh: cannot be written \(.*No space left.*Finished parts are untouched: make room"
    ):
        make(job, tokenizer)
    assert len((job.folder / "parts.jsonl").read_text().splitlines()) == 2
    (job.folder / "part-00002.bin.partial").unlink()
    whole = replace(job, folder=job.folder.with_name("whole"))
    make(job, tokenizer)
    make(whole, tokenizer)
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


RANDOMLY_KILLED = """
import os, sys, threading
from pathlib import Path
from data_prep import tokenize
from data_prep.choose_encoder import choose_encoder
from data_prep.tokenize import ChannelJob, tokenize_channel
from harness.data.tokenizer import open_tokenizer
import data_prep.reader, signal

folder, model, events, *inputs = sys.argv[1:]
data_prep.reader.BATCH_DOCUMENTS = 7
left = int(events)
watched = ("open", "os.rename", "os.truncate", "os.remove")

def count_down(event, arguments):
    global left
    if event in watched and folder in str(arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

job = ChannelJob(
    inputs=[Path(file) for file in inputs], folder=Path(folder), tokens_per_part=3000,
    max_document_tokens=40, long_documents="split",
)
tokenizer = open_tokenizer(Path(model))
sys.addaudithook(count_down)
tokenize_channel(job, tokenizer, lambda totals, bytes_read: None)
"""


def test_killed_again_and_again_at_any_file_operation(
    job: ChannelJob, tokenizer: Tokenizer, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.reader.BATCH_DOCUMENTS", 7)
    job = replace(job, max_document_tokens=40, long_documents="split")
    with job.inputs[0].open("a") as file:  # type: ignore[union-attr]
        file.write("\nnot JSON\n")
    job = replace(job, max_rejected_share=0.01)
    whole = replace(job, folder=tmp_path / "whole" / "zh")
    totals = make(whole, tokenizer).totals
    assert totals.split > 20 and totals.rejected == 2
    num_kills = 0
    for events in (1, 3, 9, 14, 2, 11, 17, 5, 13, 8, 21, 4, 19, 7, 16, 10, 23, 6, 12, 15):
        command = [sys.executable, "-c", RANDOMLY_KILLED, str(job.folder), str(model_file), str(events)]
        process = subprocess.run([*command, *map(str, job.inputs)], check=False, timeout=120)
        num_kills += process.returncode == -signal.SIGKILL
    assert num_kills >= 5
    assert make(job, tokenizer).totals == totals
    assert content_of(job.folder) == content_of(whole.folder)


def test_long_documents_are_split_or_dropped(job: ChannelJob, tokenizer: Tokenizer, poems: list[str]) -> None:
    make(job, tokenizer)
    kept = read_channel(job.folder)
    for long_documents in ("split", "drop"):
        folder = job.folder.with_name(long_documents)
        changed = replace(job, folder=folder, max_document_tokens=50, long_documents=long_documents)  # type: ignore[arg-type]
        result = make(changed, tokenizer)
        documents = read_channel(folder)
        assert max(map(len, documents)) <= 50
        num_long = sum(len(document) > 50 for document in kept)
        if long_documents == "drop":
            assert documents == [document for document in kept if len(document) <= 50]
            assert (result.totals.split, result.totals.dropped) == (0, num_long)
        else:
            end = tokenizer.end_of_document_id
            assert {document[-1] for document in documents} == {end}
            flat = [token for document in documents for token in document if token != end]
            assert flat == [token for document in kept for token in document[:-1]]
            assert (result.totals.split, result.totals.dropped) == (num_long, 0)
        assert f"too long: {result.totals.split} documents split, {result.totals.dropped} dropped" in result.summary(
            folder
        )
        assert result.totals.documents == 300


def test_nothing_left_is_an_error(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = write_lines(tmp_path / "a.jsonl", {"text": "many more tokens than two"})
    job = ChannelJob(inputs=[file], folder=tmp_path / "c", max_document_tokens=2, long_documents="drop")
    with pytest.raises(
        DataError, match=r"no document is left .* all 1 are longer than --max-document-tokens 2\. Raise"
    ):
        make(job, tokenizer)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_any_kind_of_file_gives_the_same_bytes(
    tmp_path: Path, poems: list[str], tokenizer: Tokenizer, suffix: str
) -> None:
    plain = write_lines(tmp_path / "a.jsonl", *({"text": poem} for poem in poems))
    other = tmp_path / f"b{suffix}"
    if suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.table({"text": poems}), other, row_group_size=50)
    elif suffix == ".jsonl.zst":
        other.write_bytes(pytest.importorskip("zstandard").compress(plain.read_bytes()))
    else:
        other.write_bytes(gzip.compress(plain.read_bytes()))
    for file in (plain, other):
        make(ChannelJob(inputs=[file], folder=tmp_path / file.stem, tokens_per_part=3000), tokenizer)
    ours, theirs = content_of(tmp_path / "a"), content_of(tmp_path / other.stem)
    parts = [name for name in ours if name.startswith("part")]
    assert len(parts) > 10
    assert [ours[name] for name in parts] == [theirs[name] for name in parts]


@pytest.mark.parametrize(
    ("encoder", "file"),
    [("reference", "json_file"), ("fastokens", "json_file"), ("gigatoken", "json_file"), ("gigatoken", "model_file")],
)
def test_files_are_those_of_megatrons_preprocessing(
    tmp_path: Path, poems: list[str], encoder: str, file: str, request: pytest.FixtureRequest
) -> None:
    """Megatron-LM's recipe: encode each line, append eod, add_document; one .bin/.idx for the whole input."""
    if encoder != "reference":
        pytest.importorskip(encoder)
    reference = open_tokenizer(request.getfixturevalue(file))
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=DType.optimal_dtype(reference.vocab_size))
    for poem in poems:
        ids = [*reference.encode_documents([poem])[0], reference.end_of_document_id]
        builder.add_document(ids, [len(ids)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    lines = write_lines(tmp_path / "a.jsonl", *({"text": poem} for poem in poems))
    chosen = choose_encoder(reference, poems, encoder)
    assert chosen.encoder.name == encoder
    tokenize_channel(ChannelJob(inputs=[lines], folder=tmp_path / "ours"), reference, silent, chosen.encoder)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours/part-00000{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()


def test_resuming_without_the_place_is_refused(job: ChannelJob, tokenizer: Tokenizer) -> None:
    make(job, tokenizer)
    source = json.loads((job.folder / "source.json").read_text())
    (job.folder / "source.json").write_text(json.dumps(source | {"finished": None}))
    (job.folder / "resume.jsonl").write_text("{}\n")
    with pytest.raises(
        DataError, match=r"resume\.jsonl: it does not say where in the input part-\d+ ends .*Delete the"
    ):
        make(job, tokenizer)


def test_training_reads_whole_parts_while_more_are_written(
    job: ChannelJob, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.reader.BATCH_DOCUMENTS", 20)
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
