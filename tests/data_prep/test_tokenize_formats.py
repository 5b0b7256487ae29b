from __future__ import annotations

import gzip
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from tokenized import content_of, make, read_channel, silent, write_lines

from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
from data_prep.tokenizers.choose_encoder import choose_encoder
from harness.channels.provenance_of_parts import all_of_part
from harness.data.files.opened import parts_of
from harness.errors import DataError
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Megatron warns of every optional package that is missing
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder


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
    parts = [name for name in ours if name.startswith("part") and not name.endswith(".provenance")]
    assert len(parts) > 10
    assert [ours[name] for name in parts] == [theirs[name] for name in parts]
    named, named_there = (
        [origin for part in parts_of(tmp_path / stem) for origin in all_of_part(part)] for stem in ("a", other.stem)
    )
    assert named_there == [origin._replace(file=str(other)) for origin in named]
    assert [origin.line for origin in named] == list(range(1, len(poems) + 1))


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
