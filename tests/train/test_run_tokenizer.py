"""The tokenizer of a run is held against its checkpoint and its channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_samples import sample_manifest
from small_run import small_config
from small_tokenizers import byte_level
from tokenizers import AddedToken

from harness.config.schema import Config
from harness.errors import CheckpointError, DataError
from harness.tokenizers.identity import OTHER_TOKENIZERS, identity_of
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer
from harness.train.components.run_tokenizer import open_run_tokenizer


def write_tokenizer(folder: Path, *words: str, **changes: Any) -> Tokenizer:
    folder.mkdir(parents=True)
    tokenizer = byte_level(**changes)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    tokenizer.save(str(folder / "tokenizer.json"))
    return open_tokenizer(folder)


@pytest.fixture
def one(tmp_path: Path) -> Tokenizer:
    return write_tokenizer(tmp_path / "one")


def config_with(tmp_path: Path, tokenizer: Tokenizer | None, rows: int = 1000) -> Config:
    changes = {} if tokenizer is None else {"data.tokenizer": tokenizer.path}
    return small_config(tmp_path, None, {**changes, "model.vocab_size": rows})


def started_from(tokenizer: Tokenizer | None, *others: Tokenizer, data: bool = True) -> Any:
    fingerprint: dict[str, Any] = {"tokenizer": tokenizer and identity_of(tokenizer).as_json()}
    fingerprint |= {OTHER_TOKENIZERS: [identity_of(each).as_json() for each in others]} if others else {}
    return sample_manifest(7, fingerprint=fingerprint | ({"data": {}} if data else {}))


def test_checkpoint_of_the_same_tokenizer_in_another_file(tmp_path: Path, one: Tokenizer) -> None:
    (tmp_path / "copy.json").write_text(one.path.read_text() + "\n")
    found = open_run_tokenizer(config_with(tmp_path, open_tokenizer(tmp_path / "copy.json")), started_from(one))
    assert found.notes == () and found.identity is not None and found.identity.is_same_as(identity_of(one))


def test_checkpoint_of_another_tokenizer(tmp_path: Path, one: Tokenizer) -> None:
    other = write_tokenizer(tmp_path / "other", add_prefix_space=True)
    with pytest.raises(CheckpointError, match=r"was trained with another tokenizer, tokenizer\.json with 330 ids"):
        open_run_tokenizer(config_with(tmp_path, other), started_from(one))


def test_tokenizer_may_grow_and_not_shrink(tmp_path: Path, one: Tokenizer) -> None:
    grown = write_tokenizer(tmp_path / "grown", "telescope")
    found = open_run_tokenizer(config_with(tmp_path, grown), started_from(one))
    assert found.notes[0].startswith("the tokenizer grew from 330 to 331 ids") and found.identity == identity_of(grown)
    with pytest.raises(CheckpointError, match="it had 331 ids"):
        open_run_tokenizer(config_with(tmp_path, one), started_from(grown))


def test_model_folder_with_two_tokenizers_admits_either_and_no_third(tmp_path: Path, one: Tokenizer) -> None:
    second = write_tokenizer(tmp_path / "second", vocab_size=320)
    third = write_tokenizer(tmp_path / "third", add_prefix_space=True)
    start = started_from(one, second, data=False)
    for either in (one, second):
        assert open_run_tokenizer(config_with(tmp_path, either), start).notes == ()
    with pytest.raises(CheckpointError, match="was trained with another tokenizer"):
        open_run_tokenizer(config_with(tmp_path, third), start)


def test_without_one_the_checkpoint_knows_it(tmp_path: Path, one: Tokenizer) -> None:
    found = open_run_tokenizer(config_with(tmp_path, None), started_from(one))
    assert found.opened is None and found.identity == identity_of(one)
    assert open_run_tokenizer(config_with(tmp_path, None), None).identity is None
    assert open_run_tokenizer(config_with(tmp_path, one), started_from(None)).identity == identity_of(one)


@pytest.mark.parametrize(
    ("start", "advice"),
    [
        (lambda one: None, "Set model.vocab_size to 330 or more"),
        (lambda one: started_from(one, data=False), "convert it again, with more, by harness convert from-hf MODEL"),
        (lambda one: started_from(one), "export them with harness convert to-hf"),
    ],
    ids=["new run", "from a converted model", "from a checkpoint of its own"],
)
def test_more_ids_than_rows(tmp_path: Path, one: Tokenizer, start: Any, advice: str) -> None:
    with pytest.raises(DataError, match=f"has 330 token ids, but model.vocab_size is 329.*{advice}"):
        open_run_tokenizer(config_with(tmp_path, one, rows=329), start(one))
