"""Wrong input, as a user gives it: one clear message, the right exit code, nothing damaged."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from lock_holder import held_by_another
from process_runs import VOCAB_SIZE, Site, write_channel

from data_prep.channels.indexed_writer import PartWriter, token_dtype


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.config["run"]["stop_at_step"] = 2
    return made


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A run that was saved at steps 1 and 2."""
    made = Site(tmp_path_factory.mktemp("saved"))
    made.config["run"]["stop_at_step"] = 2
    made.config["checkpoint"] = {"save_every_steps": 1}
    code, text = made.train().finish()
    assert code == 0, text
    return made


def refused(site: Site, *arguments: str, code: int = 65, cold: bool = False) -> str:
    """The one message of a start that is refused; the checkpoints are as before."""
    before = checkpoint_files(site)
    found, text = site.train(*arguments, cold=cold).finish()
    assert found == code, text
    assert text.count("harness: error: ") == 1, text
    assert "Traceback" not in text
    assert "left with exit code" not in text
    assert checkpoint_files(site) == before
    return text[text.index("harness: error: ") :]


def checkpoint_files(site: Site) -> dict[str, int]:
    folder = site.run_dir.checkpoints
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))} if folder.exists() else {}


def test_all_problems_of_a_configuration_at_once(site: Site) -> None:
    wrong = ("model.hidden_sise=3", "model.num_layers=two", "phases.0.train_steps=-1")
    text = refused(site, *(word for problem in wrong for word in ("--set", problem)), code=64)
    assert "3 problems in the configuration:" in text
    assert "model.hidden_sise: unknown key; did you mean 'hidden_size'?" in text
    assert not site.run_dir.root.exists()


def test_a_layout_that_does_not_fit(site: Site) -> None:
    text = refused(site, "--set", "parallel.tensor_model_parallel_size=3", code=64)
    assert "num_attention_heads 4 is not divisible by tensor_model_parallel_size 3: use 2 or 4" in text
    assert not site.run_dir.root.exists()


def test_a_run_directory_in_use(site: Site) -> None:
    site.run_dir.make_folders()
    with held_by_another(site.run_dir) as pid:
        text = refused(site, code=64)
    assert f"{site.run_dir.root} is in use: process {pid} on" in text
    assert not site.run_dir.config.exists()


def test_a_run_directory_that_cannot_be_written(site: Site) -> None:
    site.run_dir.root.write_text("a file is in the way")
    assert "cannot make the run directory" in refused(site, code=64)


def test_a_missing_channel_is_told_once_by_several_ranks(site: Site) -> None:
    shutil.rmtree(site.root / "data" / "en")
    text = refused(site, "--set", "parallel.data_parallel_size=2", cold=True)
    assert text == (
        f"harness: error: channel en: there is nothing at {site.root}/data/en. Give a folder with parts.jsonl, "
        "or the prefix of a .bin/.idx pair without its ending.\n"
    )


def test_a_truncated_bin(site: Site) -> None:
    binary = site.root / "data" / "en" / "part-00000.bin"
    binary.write_bytes(binary.read_bytes()[:-10])
    assert re.search(r"part-00000.bin is truncated or altered: expected \d+ bytes, found \d+", refused(site))


def test_an_index_of_another_dtype(site: Site) -> None:
    index = site.root / "data" / "en" / "part-00000.idx"
    content = bytearray(index.read_bytes())
    content[17] = 4  # int32, where the .bin has uint16
    index.write_bytes(content)
    assert re.search(r"\d+ tokens of int32 make \d+ bytes, found \d+.", refused(site))


@pytest.mark.parametrize("is_listed", [False, True])
def test_an_index_without_its_last_border_ends_no_run_late_nor_in_a_traceback(site: Site, *, is_listed: bool) -> None:
    """Megatron would only assert. A listed part is refused at the start, long before its turn comes."""
    channel = site.root / "data" / "en"
    writer = PartWriter(channel, 1, token_dtype(VOCAB_SIZE))
    for _ in range(3):
        writer.add_document([1, 2, 3])
    writer.finish()
    index = channel / "part-00001.idx"
    content = bytearray(index.read_bytes()[:-8])
    content[26:34] = (3).to_bytes(8, "little")
    index.write_bytes(content)
    if is_listed:
        lines = (channel / "parts.jsonl").read_text().replace('"documents": 3,', '"documents": 2,')
        (channel / "parts.jsonl").write_text(lines)
    else:
        site.config["data"]["channels"]["en"]["path"] = str(channel / "part-00001")
    text = refused(site)
    assert "part-00001.idx is damaged: its document borders do not rise from 0 to its 3 sequences" in text
    assert not site.records()


def test_a_token_beyond_the_vocabulary_in_the_middle_of_training(site: Site) -> None:
    shutil.rmtree(site.root / "data" / "code")
    write_channel(site.root / "data" / "code", first_id=250)
    text = refused(site, "--set", "model.vocab_size=250", "--set", "parallel.pipeline_model_parallel_size=2")
    assert re.search(r"token \d+ of document \d+ in .*\.bin has id \d+; the vocabulary has ids 0 … 249", text)


def test_a_tokenizer_larger_than_the_vocabulary(site: Site) -> None:
    tokenizer = site.root / "tokenizer.json"
    tokenizer.write_text(WORDS)
    text = refused(site, "--set", f"data.tokenizer={tokenizer}", "--set", "model.vocab_size=2")
    assert "has 3 token ids, but model.vocab_size is 2. Set model.vocab_size to 3 or more." in text


def test_nothing_to_resume_from(site: Site) -> None:
    text = refused(site, "--resume", "must", "--set", "parallel.tensor_model_parallel_size=2")
    assert f"There is no checkpoint in {site.run_dir.checkpoints}. Give --resume auto to start anew." in text


def test_another_model_and_other_data_are_told_field_by_field(saved: Site) -> None:
    told = (saved.run_dir.config, saved.run_dir.plan, saved.run_dir.metrics, saved.run_dir.events)
    before = [path.read_bytes() for path in told]
    text = refused(
        saved,
        *("--set", "model.ffn_hidden_size=48", "--set", "phases.0.seq_length=8"),
        *("--set", "parallel.tensor_model_parallel_size=2"),
    )
    assert "The checkpoint does not belong to this configuration:" in text
    assert "  model.ffn_hidden_size: checkpoint 64, now 48\n" in text
    assert "  data.seq_length: checkpoint 16, now 8\n" in text
    assert [path.read_bytes() for path in told] == before


def test_a_corrupt_checkpoint_is_passed_over_for_the_one_before(saved: Site, tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.config = saved.config
    shutil.copytree(saved.run_dir.root, site.run_dir.root)
    flip_a_byte(site.run_dir.checkpoint(2))
    code, text = site.train().finish()
    assert code == 0, text
    assert f"warning: passed over {site.run_dir.checkpoint(2)}: '" in text
    assert "was altered: its hash is" in text
    assert f"resuming small from {site.run_dir.checkpoint(1)} (step 1)" in text
    assert site.losses() == saved.losses()
    assert site.checkpoints() == ["step_0000001", "step_0000002", "step_0000002.2"]

    for name in site.checkpoints():
        (site.run_dir.checkpoints / name / "manifest.json").write_text("{}")
    text = refused(site)
    assert f"No checkpoint in {site.run_dir.checkpoints} can be resumed from:" in text
    assert all(f"  {name}: " in text for name in site.checkpoints())
    assert "give --resume never to start anew" in text


def flip_a_byte(checkpoint: Path) -> None:
    shard = max(checkpoint.glob("*.distcp"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


WORDS = """{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
"post_processor": null, "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<eod>": 2}, "unk_token": "a"}}"""
