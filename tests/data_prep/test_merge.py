from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from channel_files import read_part, write_channel
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.channels import merge as merge_module
from data_prep.channels.merge import merge_channels
from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
from data_prep.verbs.combine_verbs import merge
from harness.channels.source import read_source
from harness.errors import DataError, UsageError
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Megatron warns of every optional package that is missing
    from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

FIRST = [[1, 2, 3], [], [4]]
SECOND = [[5, 6]]
THIRD = [[7] * 20, [8]]


def merged(folder: Path, *inputs: Path, tokens_per_part: int | None = None) -> Path:
    merge_channels(inputs, folder, tokens_per_part, lambda num_bytes: None)
    return folder


@pytest.mark.parametrize("tokens_at_once", [1, 5, 1000])
def test_files_are_those_of_megatrons_builder(
    tmp_path: Path, tokens_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "TOKENS_AT_ONCE", tokens_at_once)
    inputs = [write_channel(tmp_path / "a", FIRST, SECOND), write_channel(tmp_path / "b", THIRD)]
    folder = merged(tmp_path / "out", *inputs)
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    for prefix in ("a/part-00000", "a/part-00001", "b/part-00000"):
        builder.add_index(str(tmp_path / prefix))
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in (".bin", ".idx"):
        assert (folder / f"part-00000{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def documents_of(folder: Path) -> list[list[list[int]]]:
    parts = []
    for line in (folder / "parts.jsonl").read_text().splitlines():
        dataset = IndexedDataset(str(folder / json.loads(line)["prefix"]), mmap=False)
        parts.append([dataset[i].tolist() for i in range(len(dataset))])
    return parts


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    channels=st.lists(
        st.lists(st.lists(st.lists(st.integers(0, 999), max_size=9), min_size=1, max_size=6), min_size=1, max_size=3),
        min_size=1,
        max_size=3,
    ),
    tokens_per_part=st.integers(1, 30),
    tokens_at_once=st.integers(1, 12),
)
def test_parts_end_with_the_document_that_fills_them(
    channels: list[list[list[list[int]]]],
    tokens_per_part: int,
    tokens_at_once: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merge_module, "TOKENS_AT_ONCE", tokens_at_once)
    folder = tmp_path_factory.mktemp("merge")
    channels = [[part if any(part) else [*part, [1]] for part in parts] for parts in channels]
    channels[-1][-1].append([1])
    documents = [document for parts in channels for part in parts for document in part]
    inputs = [write_channel(folder / str(number), *parts) for number, parts in enumerate(channels)]
    result = documents_of(merged(folder / "out", *inputs, tokens_per_part=tokens_per_part))
    assert [document for part in result for document in part] == documents
    for part in result[:-1]:
        assert sum(map(len, part)) >= tokens_per_part > sum(map(len, part[:-1]))


def test_the_wider_number_format_wins(tmp_path: Path) -> None:
    narrow = write_channel(tmp_path / "a", FIRST)
    wide = write_channel(tmp_path / "b", [[100_000]], vocab_size=200_000)
    folder = merged(tmp_path / "out", narrow, wide)
    assert read_part(folder / "part-00000", "<i4") == [1, 2, 3, 4, 100_000]


def test_an_altered_input_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    folder = write_channel(tmp_path / "a", FIRST, SECOND)
    (folder / "part-00001.bin").write_bytes(b"\1\0\1\0")
    with pytest.raises(DataError, match=r"part-00001\.bin was altered: .*Nothing was merged\. Copy or make"):
        merged(tmp_path / "out", folder)
    assert not (tmp_path / "out").exists()
    # The rest of a failed call is no hindrance.
    assert merged(tmp_path / "out", write_channel(tmp_path / "b", SECOND)).is_dir()


@pytest.fixture
def made(tmp_path: Path, poems: list[str], tokenizer: Tokenizer, json_file: Path) -> Path:
    """Three channels made by `tokenize`, the last with another tokenizer."""
    for number, opened in enumerate((tokenizer, tokenizer, open_tokenizer(json_file))):
        file = tmp_path / f"{number}.jsonl"
        file.write_text("".join(json.dumps({"text": poem}) + "\n" for poem in poems[number * 20 : number * 20 + 20]))
        job = ChannelJob(inputs=[file], folder=tmp_path / f"zh-{number}")
        tokenize_channel(job, opened, lambda totals, num_bytes: None)
    return tmp_path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(merge, [str(argument) for argument in arguments])


def test_command_merges_and_keeps_what_is_known(made: Path, poems: list[str]) -> None:
    result = call(made / "zh-0", made / "zh-1", "--output", made / "zh")
    assert result.stdout.startswith(f"{made}/zh: 1 part, 40 documents, ")
    recorded = read_source(made / "zh")
    assert recorded is not None and recorded.finished is not None
    assert [entry.name for entry in recorded.source.inputs] == ["0.jsonl", "1.jsonl"]
    assert recorded.finished.characters == sum(map(len, poems[:40]))


def test_what_cannot_be_merged_is_refused(made: Path) -> None:
    error = call(made / "zh-0", made / "zh-2", "--output", made / "zh").exception
    assert isinstance(error, UsageError)
    assert "were not made alike: their tokenizers are " in str(error) and "Only channels of one tokenizer" in str(error)
    assert "is named twice" in str(call(made / "zh-0", made / "zh-0", "--output", made / "zh").exception)
    (made / "link").symlink_to(made / "zh-0")
    for same in (made / "zh-0" / "part-00000", made / "link", made / "link" / "part-00000"):
        for inputs in ((made / "zh-0", same), (same, made / "zh-1", made / "zh-0")):
            error = call(*inputs, "--output", made / "zh").exception
            assert isinstance(error, UsageError) and "documents would be doubled" in str(error)
    part = made / "zh-0" / "part-00000"
    error = call(made / "zh-0", part, "--output", made / "zh").exception
    assert f"{made / 'zh-0'} and {part} have part-00000.bin in common" in str(error)
    assert not (made / "zh").exists()
    assert "exists. It stays as it is: choose another" in str(call(made / "zh-0", "--output", made / "zh-1").exception)
    assert isinstance(call(made / "no", "--output", made / "zh").exception, DataError)


def test_other_number_formats_are_refused(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "a.bin"), dtype=np.int64)
    builder.add_document([1, 2], [2])
    builder.finalize(str(tmp_path / "a.idx"))
    with pytest.raises(DataError, match="a part holds tokens as int64; merged are uint16 and int32"):
        merged(tmp_path / "out", tmp_path / "a")


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"out: cannot be written \(.*The inputs are untouched: make room"):
        merged(tmp_path / "file" / "out", write_channel(tmp_path / "a", FIRST))
