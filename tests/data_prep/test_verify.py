from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from channel_files import write_channel
from click.testing import CliRunner, Result

from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
from data_prep.channels.verify_channel import Expectation, PartReport, verify_parts
from data_prep.verbs.channel_verbs import count, verify
from harness.data.files.opened import channel_folders, parts_of
from harness.errors import DataError
from harness.tokenizers.tokenizer import Tokenizer

END = 9
FIRST = [[1, 2, END], [3, END, 4, END], [], [5]]
SECOND = [[700, END]]


def check(folder: Path, **expected: int) -> list[PartReport]:
    return verify_parts(parts_of(folder), Expectation(**expected), num_threads=2, done=lambda num_bytes: None)


def test_a_good_channel_and_what_is_in_it(tmp_path: Path) -> None:
    folder = write_channel(tmp_path / "zh", FIRST, SECOND)
    assert check(folder, vocab_size=1000, end_id=END) == [
        PartReport(
            prefix=str(folder / "part-00000"),
            tokens=8,
            documents=4,
            empty_documents=1,
            max_id=9,
            ended_documents=2,
            inner_ends=1,
        ),
        PartReport(prefix=str(folder / "part-00001"), tokens=2, documents=1, max_id=700, ended_documents=1),
    ]


def test_every_flipped_bit_of_a_part_is_found(tmp_path: Path) -> None:
    folder = write_channel(tmp_path / "zh", FIRST)
    for suffix in (".bin", ".idx"):
        file = folder / f"part-00000{suffix}"
        content = file.read_bytes()
        for byte in range(len(content)):
            for bit in (0, 7):
                changed = bytearray(content)
                changed[byte] ^= 1 << bit
                file.write_bytes(changed)
                (report,) = check(folder)
                assert report.problems, (suffix, byte, bit)
        file.write_bytes(content)
    assert check(folder)[0].problems == ()


def test_an_altered_part_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    folder = write_channel(tmp_path / "zh", FIRST, SECOND)
    (folder / "part-00000.bin").write_bytes(b"\1\0" * 8)
    first, second = check(folder)
    assert "part-00000.bin was altered: its hash is" in first.problems[0]
    assert second.problems == ()


def test_ids_beyond_the_vocabulary_are_counted(tmp_path: Path) -> None:
    folder = write_channel(tmp_path / "zh", [[1, 500, 501], [999]])
    (report,) = check(folder, vocab_size=500)
    assert report.tokens_beyond_vocabulary == 3
    assert "3 tokens are beyond the vocabulary of 500 ids (the largest is 999)" in report.problems[0]


def test_negative_ids_are_beyond_any_vocabulary(tmp_path: Path) -> None:
    folder = write_channel(tmp_path / "zh", [[1, 2, 3]], vocab_size=100_000)
    line = json.loads((folder / "parts.jsonl").read_text())
    np.array([1, -2, 3], dtype="<i4").tofile(folder / "part-00000.bin")
    (folder / "parts.jsonl").write_text(json.dumps(line) + "\n")
    (report,) = check(folder, vocab_size=500)
    assert report.tokens_beyond_vocabulary == 1


def call(*arguments: object) -> Result:
    return CliRunner().invoke(verify, [str(argument) for argument in arguments])


@pytest.fixture
def made(tmp_path: Path, poems: list[str], tokenizer: Tokenizer) -> Path:
    """A channel made by `tokenize`, in a folder of channels."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": poem}) + "\n" for poem in poems[:50]))
    job = ChannelJob(inputs=[tmp_path / "a.jsonl"], folder=tmp_path / "data" / "zh", tokens_per_part=1000)
    tokenize_channel(job, tokenizer, lambda totals, num_bytes: None)
    return tmp_path / "data"


def test_command_says_good(made: Path, model_file: Path) -> None:
    result = call(made, "--tokenizer", model_file)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{made}/zh: good, ")
    assert "50 documents" in result.stdout
    assert "documents that end with the end-of-document token: 50; such tokens inside documents: 0" in result.stdout
    # The tokenizer need not be given: the channel knows its vocabulary.
    assert call(made).stdout == result.stdout


def test_command_says_bad_and_leaves_with_65(made: Path) -> None:
    file = made / "zh" / "part-00001.bin"
    file.write_bytes(b"\xff" * file.stat().st_size)
    result = call(made, "--json")
    assert result.exit_code == 65
    (reports,) = json.loads(result.stdout).values()
    assert [bool(report["problems"]) for report in reports].count(True) == 1
    assert reports[1]["tokens_beyond_vocabulary"] == reports[1]["tokens"]
    assert f"{made}/zh: BAD" in call(made).stdout


def test_a_channel_that_lost_its_list_is_not_passed_over(made: Path) -> None:
    shutil.copytree(made / "zh", made / "en")
    (made / "en" / "parts.jsonl").unlink()
    with pytest.raises(DataError, match=r"/en holds parts, but no parts\.jsonl, which makes it a channel"):
        channel_folders([made])


def test_folders_that_hold_channels_stand_for_them(made: Path, tmp_path: Path) -> None:
    assert channel_folders([made]) == [made / "zh"]
    assert channel_folders([made / "zh", tmp_path / "prefix"]) == [made / "zh", tmp_path / "prefix"]
    with pytest.raises(
        DataError, match=r"empty is not a channel folder and contains none: there is no parts\.jsonl in it"
    ):
        (tmp_path / "empty").mkdir()
        channel_folders([tmp_path / "empty"])


def test_a_channel_whose_list_is_a_link_to_nothing_is_not_passed_over(made: Path) -> None:
    (made / "en").mkdir()
    (made / "en" / "parts.jsonl").symlink_to("parts-of-yesterday.jsonl")
    assert channel_folders([made]) == [made / "en", made / "zh"]
    problem = call(made).exception
    assert isinstance(problem, DataError)
    assert f"cannot read {made}/en/parts.jsonl: No such file or directory" in str(problem)


def test_counts(made: Path, tokenizer: Tokenizer, poems: list[str]) -> None:
    write_channel(made / "other", FIRST, SECOND)
    result = CliRunner().invoke(count, [str(made), "--json"])
    other, zh = json.loads(result.stdout)
    assert other == {
        "channel": "other",
        "path": str(made / "other"),
        "parts": 2,
        "documents": 5,
        "tokens": 10,
        "bytes": 20,
        "dtype": "uint16",
        "finished": None,
        "characters": None,
        "rejected": None,
    }
    assert (zh["channel"], zh["documents"], zh["finished"], zh["rejected"]) == ("zh", 50, True, 0)
    assert zh["characters"] == sum(map(len, poems[:50]))
    assert zh["tokens"] == sum(len(ids) + 1 for ids in tokenizer.encode_documents(poems[:50]))


def test_counts_as_a_table(made: Path) -> None:
    write_channel(made / "other", FIRST, SECOND)
    lines = CliRunner().invoke(count, [str(made)]).stdout.splitlines()
    assert any("other" in line and "unknown" in line and "uint16" in line for line in lines)
    assert any("zh" in line and "yes" in line for line in lines)


def test_a_channel_without_parts_is_an_error(tmp_path: Path) -> None:
    assert isinstance(call(tmp_path / "no").exception, DataError)
