"""What an export needs is in the checkpoint: what came with a model goes back with it, from wherever it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import conversion_jobs
import pytest
import worlds
from hugging_face_models import write_channel
from pool import Pool
from tokenizer_folders import (
    CHAT,
    KINDS,
    VOCAB_SIZE,
    as_transformers_reads_it,
    byte_level,
    files_besides_weights,
    write_json,
    write_with_tokenizer,
)

from checkpoint_tools.average import average
from checkpoint_tools.compare_models import open_either
from harness.config.schema import Config
from harness.run.checkpoints.manifest import read_manifest, write_manifest
from harness.run.paths import RunDir

NUM_STEPS = 2
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, "max_position_embeddings": 96}


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_channel(tmp_path_factory.mktemp("data") / "zh", VOCAB_SIZE)


def config_for(channel: Path, *, phases: list[dict[str, Any]], **sections: Any) -> Config:
    """A run whose phases take two steps each."""
    common = {"train_steps": NUM_STEPS, "global_batch_size": 4, "blend": {"zh": 1}}
    model = {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "ffn_hidden_size": 64, "vocab_size": 420}
    data = {"channels": {"zh": {"path": channel}}, **sections.pop("data", {})}
    return Config.model_validate(
        {
            "run": {"name": "exported"},
            "model": model,
            "data": data,
            "phases": [{**common, "name": f"p{number}", **phase} for number, phase in enumerate(phases)],
            "optimizer": {"learning_rate": 1e-3},
            "precision": {"dtype": "fp32"},
            "logging": {"tensorboard": False},
            **sections,
        }
    )


def convert(pool: Pool, *arguments: object) -> tuple[str, str]:
    [left] = pool.run(conversion_jobs.command, 1, ["convert", *map(str, arguments)])
    assert left.code == 0, left.err
    return left.out, left.err


def settings(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_came_with_a_model_goes_back_as_it_came(pool: Pool, tmp_path: Path, kind: str) -> None:
    given = write_with_tokenizer(tmp_path / "given", kind)
    convert(pool, "from-hf", given, tmp_path / "run")
    out, told = convert(pool, "to-hf", tmp_path / "run", tmp_path / "back")
    assert told == ""
    assert f"{tmp_path / 'run'}: its newest sound checkpoint is step_0000000" in out
    assert files_besides_weights(tmp_path / "back") == files_besides_weights(given)
    assert as_transformers_reads_it(tmp_path / "back") == as_transformers_reads_it(given)


def test_a_run_keeps_what_came_wherever_its_tokenizer_lies(pool: Pool, channel: Path, tmp_path: Path) -> None:
    """Its `data.tokenizer` is a bare copy, its checkpoint is moved, linked, averaged; the export is the same."""
    given = write_with_tokenizer(tmp_path / "given", "several ends", **DYNAMIC)
    (given / "chat_template.jinja").write_text(CHAT)
    convert(pool, "from-hf", given, tmp_path / "run")
    run, bare = RunDir(tmp_path / "run"), tmp_path / "elsewhere" / "copied.json"
    bare.parent.mkdir()
    shutil.copy(given / "tokenizer.json", bare)
    model = open_either(run.checkpoint(0)).model
    config = config_for(channel, phases=[{"seq_length": 32}], data={"tokenizer": bare})
    assert pool.run(worlds.train, 1, config.model_copy(update={"model": model}), run.root, "must") == [0]
    shutil.rmtree(given.rename(tmp_path / "gone"))
    shutil.rmtree(bare.parent)

    last = run.checkpoint(NUM_STEPS)
    convert(pool, "to-hf", last, tmp_path / "in_place")
    kept = files_besides_weights(tmp_path / "in_place")
    assert set(kept) == {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "generation_config.json",
    }
    assert json.loads(kept["generation_config.json"])["eos_token_id"] == [2, 17]
    assert kept["chat_template.jinja"].decode() == CHAT
    found = settings(tmp_path / "in_place")
    assert (found["max_position_embeddings"], found["rope_scaling"]["rope_type"]) == (96, "dynamic")
    assert (found["bos_token_id"], found["eos_token_id"], found["pad_token_id"]) == (1, [2, 17], 2)

    copied = shutil.copytree(last, tmp_path / "scratch" / "any name")
    mean = average([run.checkpoint(0), last], tmp_path / "mean", conversion_jobs.no_display).checkpoint
    moved = run.checkpoints.rename(tmp_path / "scratch" / "moved")
    run.checkpoints.symlink_to(moved)
    for name, checkpoint in (("copied", copied), ("linked", last), ("averaged", mean)):
        convert(pool, "to-hf", checkpoint, tmp_path / name)
        assert settings(tmp_path / name) == found, name
        assert files_besides_weights(tmp_path / name) == kept, name


def test_the_longest_sequences_so_far_are_written(pool: Pool, channel: Path, tmp_path: Path) -> None:
    """In the middle of a phase, at its border before a longer one, in the longer one, and in a shorter one after it."""
    phases = [{"seq_length": 16}, {"seq_length": 48, "rotary_base": 500_000.0}, {"seq_length": 32}]
    config = config_for(channel, phases=phases, checkpoint={"save_every_steps": 1})
    assert pool.run(worlds.train, 1, config, tmp_path / "run", "auto") == [0]
    found = {}
    for step in range(1, 7):
        checkpoint = RunDir(tmp_path / "run").checkpoint(step)
        convert(pool, "to-hf", checkpoint, tmp_path / f"out-{step}", "--no-hashes")
        fields = settings(tmp_path / f"out-{step}")
        found[step] = (fields["max_position_embeddings"], fields["rope_theta"])
    short, long, again = (16, 10_000.0), (48, 500_000.0), (48, 10_000.0)
    assert found == {1: short, 2: short, 3: long, 4: long, 5: again, 6: again}
    first, last = (RunDir(tmp_path / "run").checkpoint(step) for step in (5, 1))
    mean = average([first, last], tmp_path / "mean", conversion_jobs.no_display).checkpoint
    assert read_manifest(mean).longest_seq_length == 48


def test_a_rollback_goes_back_to_the_length_before(pool: Pool, channel: Path, tmp_path: Path) -> None:
    """Steps of a longer phase that were rolled back have left nothing in the weights."""
    phases = [{"seq_length": 16}, {"seq_length": 48}]
    config = config_for(channel, phases=phases, checkpoint={"save_every_steps": 1})
    order = {"to_step": 1}
    assert pool.run(worlds.train_and_return, 1, config, tmp_path / "run", 3, order) == [0]
    found = {
        (manifest.attempt, manifest.step): manifest.longest_seq_length
        for manifest in map(read_manifest, sorted((tmp_path / "run" / "checkpoints").iterdir()))
    }
    assert found == {(0, 1): 16, (0, 2): 16, (0, 3): 48, (1, 1): 16, (1, 2): 16, (1, 3): 48, (1, 4): 48}


@pytest.mark.parametrize(("lengths", "longest", "is_dynamic"), [([16, 96], 96, True), ([16, 112, 16], 112, False)])
def test_dynamic_scaling_ends_where_training_went_beyond_it(
    pool: Pool, channel: Path, tmp_path: Path, lengths: list[int], longest: int, is_dynamic: bool
) -> None:
    given = write_with_tokenizer(tmp_path / "given", "chat template in the settings", **DYNAMIC)
    convert(pool, "from-hf", given, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    config = config_for(channel, phases=[{"seq_length": length} for length in lengths])
    config = config.model_copy(update={"model": open_either(run.checkpoint(0)).model})
    assert pool.run(worlds.train, 1, config, run.root, "must") == [0]
    convert(pool, "to-hf", run.root, tmp_path / "out")
    found = settings(tmp_path / "out")
    assert found["max_position_embeddings"] == longest
    assert found["rope_scaling"] == ({"rope_type": "dynamic", "factor": 4.0} if is_dynamic else None)
    # A run without data.tokenizer keeps that of the model.
    assert files_besides_weights(tmp_path / "out") == files_besides_weights(given)


def test_what_a_model_leaves_to_its_class_is_not_shortened(pool: Pool, tmp_path: Path) -> None:
    """Llama's class has 2048 positions, and ids of its own, where `config.json` names none."""
    given = write_with_tokenizer(tmp_path / "given", "chat template in the settings", **DYNAMIC)
    fields = settings(given)
    for name in ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"):
        fields.pop(name, None)
    write_json(given / "config.json", fields)
    convert(pool, "from-hf", given, tmp_path / "run")
    checkpoint = RunDir(tmp_path / "run").checkpoint(0)
    write_manifest(checkpoint, read_manifest(checkpoint).model_copy(update={"longest_seq_length": 512}))
    convert(pool, "to-hf", tmp_path / "run", tmp_path / "out")
    assert as_transformers_reads_it(tmp_path / "out") == as_transformers_reads_it(given)
    assert as_transformers_reads_it(given)["max_position_embeddings"] == 2048
    assert settings(tmp_path / "out")["rope_scaling"] == {"rope_type": "dynamic", "factor": 4.0}


def test_a_run_of_its_own_with_and_without_a_tokenizer(pool: Pool, channel: Path, tmp_path: Path) -> None:
    """Its first checkpoint is written beside training."""
    tokenizer = tmp_path / "own" / "tokenizer.json"
    tokenizer.parent.mkdir()
    byte_level().save(str(tokenizer))
    write_json(tokenizer.with_name("tokenizer_config.json"), {"eos_token": "</s>", "chat_template": CHAT})
    for name, data in (("with", {"tokenizer": tokenizer}), ("without", {})):
        checkpoint = {"async_save": True, "save_every_steps": 1}
        config = config_for(channel, phases=[{"seq_length": 16}], data=data, checkpoint=checkpoint)
        assert pool.run(worlds.train, 1, config, tmp_path / name, "auto") == [0]
    expected = files_besides_weights(tokenizer.parent)
    shutil.rmtree(tokenizer.parent)
    for name in ("with", "without"):
        shutil.copytree(RunDir(tmp_path / name).checkpoint(1), tmp_path / "scratch" / name)
        convert(pool, "to-hf", tmp_path / "scratch" / name, tmp_path / f"hf-{name}")
        found = files_besides_weights(tmp_path / f"hf-{name}")
        own = json.loads(found.pop("generation_config.json"))
        assert own == ({"eos_token_id": 2, "do_sample": False} if name == "with" else {"do_sample": False})
        assert found == (expected if name == "with" else {})


def as_an_earlier_version_wrote_it(checkpoint: Path) -> None:
    """Takes out of a checkpoint what earlier versions did not put into it."""
    manifest = read_manifest(checkpoint)
    for folder in ("tokenizer", "origin"):
        shutil.rmtree(checkpoint / folder)
    files = {name: record for name, record in manifest.files.items() if "/" not in name}
    write_manifest(checkpoint, manifest.model_copy(update={"files": files, "longest_seq_length": None}))


def test_a_checkpoint_of_an_earlier_version_takes_it_from_its_run(pool: Pool, channel: Path, tmp_path: Path) -> None:
    given = write_with_tokenizer(tmp_path / "given", "several ends", **DYNAMIC)
    convert(pool, "from-hf", given, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    as_an_earlier_version_wrote_it(run.checkpoint(0))
    (run.root / "source").mkdir()
    for path in given.glob("*.json"):
        shutil.copy(path, run.root / "source" / path.name)

    convert(pool, "to-hf", run.root, tmp_path / "out")
    assert files_besides_weights(tmp_path / "out") == files_besides_weights(given)
    assert settings(tmp_path / "out")["rope_scaling"] == {"rope_type": "dynamic", "factor": 4.0}

    alone = shutil.copytree(run.checkpoint(0), tmp_path / "alone" / "x")
    out, told = convert(pool, "to-hf", alone, tmp_path / "poor", "--without-tokenizer")
    assert "was saved by an earlier version, which kept nothing of a Hugging Face model in it" in told
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "to-hf", str(alone), str(tmp_path / "none")])
    assert left.code == 64
    assert "is not known: there is no readable config.yaml. Name it with --tokenizer" in left.err

    # A run that goes on from it has everything in its checkpoints.
    config = config_for(channel, phases=[{"seq_length": 16}, {"seq_length": 32}])
    config = config.model_copy(update={"model": open_either(run.checkpoint(0)).model})
    assert pool.run(worlds.train, 1, config, run.root, "must") == [0]
    shutil.rmtree(run.root / "source")
    convert(pool, "to-hf", run.root, tmp_path / "later")
    assert files_besides_weights(tmp_path / "later") == files_besides_weights(given)


def test_a_tokenizer_that_grew_keeps_its_settings(pool: Pool, channel: Path, tmp_path: Path) -> None:
    given = write_with_tokenizer(tmp_path / "given", "vocabulary beside it")
    (given / "chat_template.jinja").write_text(CHAT)
    tokenizer = byte_level()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save(str(tmp_path / "grown.json"))
    arguments = ("--vocab-size", VOCAB_SIZE + 1, "--tokenizer", tmp_path / "grown.json")
    convert(pool, "from-hf", given, tmp_path / "run", *arguments)
    convert(pool, "to-hf", tmp_path / "run", tmp_path / "out")
    found = files_besides_weights(tmp_path / "out")
    assert set(found) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}
    assert found["tokenizer.json"] == (tmp_path / "grown.json").read_bytes()
    before, after = (as_transformers_reads_it(folder) for folder in (given, tmp_path / "out"))
    assert after["length"] == before["length"] + 1
    assert {name: after[name] for name in ("chat", "special tokens")} == {
        name: before[name] for name in ("chat", "special tokens")
    }


def test_another_place_for_the_tokenizer_is_taken_and_what_it_lacks_is_told(pool: Pool, tmp_path: Path) -> None:
    given = write_with_tokenizer(tmp_path / "given", "chat templates in files")
    convert(pool, "from-hf", given, tmp_path / "run")
    shutil.copy(given / "tokenizer.json", tmp_path / "bare.json")
    out, told = convert(pool, "to-hf", tmp_path / "run", tmp_path / "out", "--tokenizer", tmp_path / "bare.json")
    lost = "additional_chat_templates/tool_use.jinja, chat_template.jinja, tokenizer_config.json of the checkpoint"
    assert f"warning: {lost} are not written, because --tokenizer {tmp_path / 'bare.json'} was given" in told
    assert set(files_besides_weights(tmp_path / "out")) == {"tokenizer.json", "generation_config.json"}


def test_files_of_a_model_may_be_links_but_not_into_nothing(pool: Pool, tmp_path: Path) -> None:
    """As in the cache of the hub, where every file is a link to a blob."""
    given = write_with_tokenizer(tmp_path / "given", "chat templates in files")
    expected = files_besides_weights(given)
    (tmp_path / "blobs").mkdir()
    for name in ("chat_template.jinja", "tokenizer.json", "generation_config.json"):
        blob = (given / name).rename(tmp_path / "blobs" / name.replace(".", "_"))
        (given / name).symlink_to(f"../blobs/{blob.name}")
    convert(pool, "from-hf", given, tmp_path / "run")
    convert(pool, "to-hf", tmp_path / "run", tmp_path / "out")
    assert files_besides_weights(tmp_path / "out") == expected
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    (tmp_path / "blobs" / "chat_template_jinja").unlink()
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "from-hf", str(given), str(tmp_path / "none")])
    assert left.code == 65
    link = f"{given / 'chat_template.jinja'} is a link to ../blobs/chat_template_jinja, which cannot be read"
    assert f"{link}: No such file or directory." in left.err
    assert not list(tmp_path.glob("none*"))


def test_a_model_whose_folder_is_a_link_and_a_run_whose_newest_checkpoint_is_damaged(
    pool: Pool, tmp_path: Path
) -> None:
    given = write_with_tokenizer(tmp_path / "given", "chat templates in files")
    (tmp_path / "linked").symlink_to(given)
    convert(pool, "from-hf", tmp_path / "linked", tmp_path / "run")
    run = RunDir(tmp_path / "run")
    damaged = shutil.copytree(run.checkpoint(0), run.checkpoint(1))
    manifest = read_manifest(damaged).model_copy(update={"step": 1})
    write_manifest(damaged, manifest)
    shard = damaged / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    out, told = convert(pool, "to-hf", run.root, tmp_path / "out")
    assert f"warning: passed over {damaged}: '__0_0.distcp' was altered" in told
    assert "its newest sound checkpoint is step_0000000" in out
    shutil.rmtree(run.checkpoint(0))
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "to-hf", str(run.root), str(tmp_path / "none")])
    assert left.code == 65
    assert f"There is no sound checkpoint in {run.checkpoints}:\n  step_0000001: '__0_0.distcp' was altered" in left.err
