from __future__ import annotations

import json
from pathlib import Path

import pytest
from channel_files import write_channel
from click.testing import CliRunner

from data_prep.channels.show import number_in_channel, random_numbers
from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
from data_prep.verbs.channel_verbs import sample, show
from harness.data.files.opened import parts_of
from harness.errors import UsageError
from harness.tokenizers.tokenizer import Tokenizer


@pytest.fixture
def made(tmp_path: Path, poems: list[str], tokenizer: Tokenizer) -> Path:
    texts = [*poems[:50], "a\x1b[31mred\x07\tb"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    job = ChannelJob(inputs=[tmp_path / "a.jsonl"], folder=tmp_path / "zh", tokens_per_part=1000)
    tokenize_channel(job, tokenizer, lambda totals, num_bytes: None)
    return tmp_path / "zh"


def texts_of(command: object, *arguments: object) -> list[str]:
    result = CliRunner().invoke(command, [*map(str, arguments), "--json"])  # type: ignore[arg-type]
    assert result.exception is None, result.exception
    return [document["text"] for document in json.loads(result.stdout)]


def test_documents_by_number_over_all_parts(made: Path, model_file: Path, poems: list[str]) -> None:
    assert len(parts_of(made)) > 1
    numbers = [argument for number in (49, 0, 17) for argument in ("--document", number)]
    assert texts_of(show, made, "--tokenizer", model_file, *numbers) == [poems[49], poems[0], poems[17]]


def test_documents_by_part(made: Path, model_file: Path, poems: list[str]) -> None:
    first, second = parts_of(made)[:2]
    found = texts_of(show, made, "--tokenizer", model_file, "--part", second.name, "--document", 1)
    assert found == [poems[first.num_documents + 1]]


def test_as_text_with_ids_and_nothing_that_steers_the_terminal(made: Path, model_file: Path) -> None:
    arguments = [str(made), "--tokenizer", str(model_file), "--document", "50", "--ids"]
    output = CliRunner().invoke(show, arguments).stdout
    assert "document 50 (part-" in output
    assert "a\\u001b[31mred\\u0007\tb\n" in output
    assert output.splitlines()[-1].endswith(" 1")
    short = CliRunner().invoke(show, [*arguments[:-1], "--max-tokens", "1"]).stdout
    assert "tokens, the first 1 shown" in short


def test_random_documents_are_the_same_for_the_same_seed(made: Path, model_file: Path, poems: list[str]) -> None:
    first = texts_of(sample, made, "--tokenizer", model_file, "--count", 5)
    assert len(set(first)) == 5
    assert first == texts_of(sample, made, "--tokenizer", model_file, "--count", 5)
    assert first != texts_of(sample, made, "--tokenizer", model_file, "--count", 5, "--seed", 1)
    assert random_numbers(parts_of(made), 1000, seed=0) == list(range(51))


def test_another_tokenizer_is_refused(made: Path, json_file: Path) -> None:
    error = CliRunner().invoke(show, [str(made), "--tokenizer", str(json_file)]).exception
    assert isinstance(error, UsageError)
    assert "was made with another tokenizer, tokenizer.model with 3,500 ids" in str(error)


def test_numbers_that_do_not_exist(made: Path, model_file: Path, tmp_path: Path) -> None:
    error = CliRunner().invoke(show, [str(made), "--tokenizer", str(model_file), "--document", "51"]).exception
    assert str(error) == "there is no document 51: the channel has 51, numbered from 0 to 50."
    parts = parts_of(write_channel(tmp_path / "small", [[1]], [[2], [3]]))
    assert number_in_channel(parts, "part-00001", 1) == 2
    with pytest.raises(UsageError, match="part-00001 has 2 documents, so there is no document 2 in it"):
        number_in_channel(parts, "part-00001", 2)
    with pytest.raises(UsageError, match="there is no part part-7; the first is part-00000, the last part-00001"):
        number_in_channel(parts, "part-7", 0)
