from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tokenized import content_of, make, silent, write_lines

from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
from harness.errors import DataError, UsageError
from harness.tokenizers.identity import identity_of
from harness.tokenizers.tokenizer import Tokenizer


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
import data_prep.channels.indexed_writer as indexed_writer
from data_prep.tokenizers.choose_encoder import choose_encoder
from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
from harness.tokenizers.tokenizer import open_tokenizer

folder, model, part, *inputs = sys.argv[1:]
append_durably = indexed_writer.append_durably

def append_or_die(file, lines):
    if f"part-{int(part):05d}" in lines[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    append_durably(file, lines)

indexed_writer.append_durably = append_or_die
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
    identity_of(counting)  # which encodes texts of its own
    counting.num_documents = 0
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


RANDOMLY_KILLED = """
import os, sys, threading
from pathlib import Path
from data_prep.tokenizers.choose_encoder import choose_encoder
from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
from harness.tokenizers.tokenizer import open_tokenizer
import data_prep.text.reader, signal

folder, model, events, *inputs = sys.argv[1:]
data_prep.text.reader.BATCH_DOCUMENTS = 7
left = int(events)
watched = ("open", "os.rename", "os.truncate", "os.remove")

def count_down(event, arguments):
    global left
    if event in watched and folder in str(arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

job = ChannelJob(
    inputs=[Path(file) for file in inputs], folder=Path(folder), tokens_per_part=700,
    max_document_tokens=40, long_documents="split",
)
tokenizer = open_tokenizer(Path(model))
sys.addaudithook(count_down)
tokenize_channel(job, tokenizer, lambda totals, bytes_read: None)
"""


def test_ten_kills_at_random_file_operations_change_nothing(
    job: ChannelJob, tokenizer: Tokenizer, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.text.reader.BATCH_DOCUMENTS", 7)
    job = replace(job, max_document_tokens=40, long_documents="split")
    with job.inputs[0].open("a") as file:  # type: ignore[union-attr]
        file.write("\n{}\nnot JSON\n")
    job = replace(job, max_rejected_share=0.01, tokens_per_part=700)
    whole = replace(job, folder=tmp_path / "whole" / "zh")
    totals = make(whole, tokenizer).totals
    assert totals.split > 20 and totals.rejected == 2 and totals.empty == 1
    generator = random.Random(20)
    for number in range(10):
        events = generator.randint(1, 20)
        command = [sys.executable, "-c", RANDOMLY_KILLED, str(job.folder), str(model_file), str(events)]
        process = subprocess.run([*command, *map(str, job.inputs)], check=False, timeout=120)
        assert process.returncode == -signal.SIGKILL, number
    assert make(job, tokenizer).totals == totals
    assert content_of(job.folder) == content_of(whole.folder)


def test_resuming_without_the_place_is_refused(job: ChannelJob, tokenizer: Tokenizer) -> None:
    make(job, tokenizer)
    source = json.loads((job.folder / "source.json").read_text())
    (job.folder / "source.json").write_text(json.dumps(source | {"finished": None}))
    (job.folder / "resume.jsonl").write_text("{}\n")
    with pytest.raises(
        DataError, match=r"resume\.jsonl: it does not say where in the input part-\d+ ends .*Delete the"
    ):
        make(job, tokenizer)
