"""Runs of every layout as Hugging Face models: what is exported computes what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import conversion_jobs
import numpy as np
import pytest
import torch
import worlds
from conversion_jobs import HeldOut
from hugging_face_models import Variant, assert_same_bits, weights_of, write_channel, write_model
from pool import Pool

from checkpoint_tools.compare_models import differences, open_either
from checkpoint_tools.torch_dist import read_index, read_region
from harness.config.schema import Config
from harness.run.checkpoints.contents import contents, file_records
from harness.run.checkpoints.manifest import read_manifest, write_manifest
from harness.run.paths import RunDir
from harness.run.records import read_records

VOCAB_SIZE = 301
NUM_STEPS = 3


class Source(NamedTuple):
    """How a run was trained."""

    tp: int = 1
    pp: int = 1
    vp: int | None = None
    dp: int = 1
    first_stage: int | None = None
    dtype: str = "fp32"
    tied: bool = False
    modules: int | None = None

    @property
    def world_size(self) -> int:
        return self.tp * self.pp * self.dp


SOURCES = {
    "tp1-tied": Source(tied=True),
    "tp2-pp2": Source(tp=2, pp=2),
    "pp2-uneven": Source(pp=2, first_stage=1),
    "pp2-vp2-tied": Source(pp=2, vp=2, tied=True),
    "dp2": Source(dp=2),  # each rank holds half of the optimizer's state
    "dp2-bf16": Source(dp=2, dtype="bf16"),
}


class Export(NamedTuple):
    """A run, and the Hugging Face model that was made of its last checkpoint."""

    source: Source
    config: Config
    run: Path
    checkpoint: Path
    folder: Path


def run_config(channel: Path, source: Source) -> Config:
    """A run on one channel of numbers that can be learnt: four layers, query groups, a head size of its own."""
    model = {"num_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "num_query_groups": 2, "kv_channels": 24}
    model |= {"ffn_hidden_size": 72, "vocab_size": VOCAB_SIZE, "rotary_base": 500.0}
    model |= {"mtp_num_layers": source.modules}
    parallel = {
        "tensor_model_parallel_size": source.tp,
        "pipeline_model_parallel_size": source.pp,
        "virtual_pipeline_model_parallel_size": source.vp,
        "data_parallel_size": source.dp,
        "num_layers_in_first_pipeline_stage": source.first_stage,
    }
    phase = {"name": "main", "train_steps": NUM_STEPS, "seq_length": 32, "global_batch_size": 4, "blend": {"zh": 1}}
    return Config.model_validate(
        {
            "run": {"name": "converted"},
            "model": {**model, "untie_embeddings_and_output_weights": not source.tied},
            "parallel": parallel,
            "data": {"channels": {"zh": {"path": channel}}},
            "phases": [phase],
            "optimizer": {"learning_rate": 1e-2},
            "precision": {"dtype": source.dtype},
            "evaluation": {"every_steps": NUM_STEPS, "num_samples_per_channel": 4, "held_out_share": 0.1},
            "logging": {"tensorboard": False},
        }
    )


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_channel(tmp_path_factory.mktemp("data") / "zh", VOCAB_SIZE)


@pytest.fixture(scope="module", params=SOURCES.values(), ids=SOURCES)
def export(
    request: pytest.FixtureRequest, pool: Pool, channel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Export:
    source: Source = request.param
    folder = tmp_path_factory.mktemp("exported")
    config, run = run_config(channel, source), folder / "run"
    assert pool.run(worlds.train, source.world_size, config, run, "auto") == [0] * source.world_size
    checkpoint = RunDir(run).checkpoint(NUM_STEPS)
    [told] = pool.run(conversion_jobs.to_hf, 1, checkpoint, folder / "out", {})
    assert told.startswith("proven"), told
    return Export(source, config, run, checkpoint, folder / "out")


def computed(pool: Pool, export: Export) -> tuple[HeldOut, Any]:
    """The run's held-out samples, and its logits `[B, S, V]` for them by its own forward pass in its own layout."""
    source = export.source
    ranks = pool.run(conversion_jobs.held_out, source.world_size, export.config, export.run)
    # Every data-parallel rank computes the same here: of one of them the tensor-parallel parts, in order.
    parts = [rank.logits for rank in ranks if rank.logits is not None][: source.tp]
    return ranks[0]._replace(logits=None), np.concatenate(parts, axis=-1)[..., :VOCAB_SIZE]


def test_the_exported_model_computes_what_the_run_computes(pool: Pool, export: Export) -> None:
    """Logits, held-out loss, and what `generate` writes next."""
    samples, ours_BSV = computed(pool, export)
    [theirs] = pool.run(conversion_jobs.exported, 1, export.folder, samples)
    difference = float(np.abs(ours_BSV - theirs.logits).max())
    name = "valid/lm_loss/zh"
    [trained] = [record.values[name] for record in read_records(RunDir(export.run).metrics) if name in record.values]
    if export.source.dtype == "fp32":
        assert difference <= 1e-4
        assert theirs.loss == pytest.approx(trained, abs=1e-5)
        assert theirs.written == ours_BSV[:, -1].argmax(-1).tolist()
    else:  # the run rounds on its way through the layers; the exported model is judged in fp32
        assert difference <= 0.05 * float(np.abs(theirs.logits).max())
        assert theirs.loss == pytest.approx(trained, abs=2e-2)


def test_there_and_back_is_the_same_checkpoint(pool: Pool, export: Export, tmp_path: Path) -> None:
    [told] = pool.run(conversion_jobs.from_hf, 1, export.folder, tmp_path / "again", {})
    assert told.startswith("proven"), told
    again = RunDir(tmp_path / "again").checkpoint(0)
    assert differences(open_either(export.checkpoint), open_either(again)) == []
    assert differences(open_either(export.checkpoint), open_either(export.folder)) == []


def test_a_run_with_modules_is_exported_without_them(pool: Pool, channel: Path, tmp_path: Path) -> None:
    source = Source(pp=2, modules=1)
    config, run, out = run_config(channel, source), tmp_path / "run", tmp_path / "out"
    assert pool.run(worlds.train, source.world_size, config, run, "auto") == [0] * source.world_size
    checkpoint = RunDir(run).checkpoint(NUM_STEPS)
    [told] = pool.run(conversion_jobs.to_hf, 1, checkpoint, out, {})
    assert told == (
        f"UsageError: {checkpoint} has modules that predict further tokens (model.mtp_num_layers 1), which cannot be "
        "written. Give --without-mtp to write the model without them: it predicts the next token as before."
    )
    [told] = pool.run(conversion_jobs.to_hf, 1, checkpoint, out, {"without_mtp": True})
    assert told.startswith("proven"), told
    test_the_exported_model_computes_what_the_run_computes(pool, Export(source, config, run, checkpoint, out))


def shards_of(checkpoint: Path) -> dict[str, int]:
    """Bytes that each rank has written, by file."""
    return {file.name: file.stat().st_size for file in checkpoint.glob("*.distcp")}


def test_another_layout_in_between_changes_no_bit(pool: Pool, export: Export, channel: Path, tmp_path: Path) -> None:
    """The run, loaded at another layout and saved by it, becomes the same model."""
    source = export.source
    other = (
        source._replace(tp=1, pp=2, vp=2, dp=1, first_stage=None)
        if source.tp * source.dp > 1
        else source._replace(tp=2, pp=1, vp=None, dp=1, first_stage=None)
    )
    checkpoint = tmp_path / "step_0000003"
    steps = pool.run(worlds.reshard, 2, run_config(channel, other), export.run, checkpoint)
    assert steps == [NUM_STEPS] * 2
    manifest = read_manifest(export.checkpoint)
    write_manifest(
        checkpoint, manifest.model_copy(update={"files": file_records(checkpoint, contents(checkpoint).files)})
    )
    assert shards_of(checkpoint) != shards_of(export.checkpoint), "the same bytes in the same files show nothing"
    [told] = pool.run(conversion_jobs.to_hf, 1, checkpoint, tmp_path / "out", {})
    assert told.startswith("proven"), told
    assert_same_bits(export.folder, tmp_path / "out")


def test_what_a_bf16_run_exports_are_its_rounded_master_weights(export: Export) -> None:
    formats = {tensor.dtype for tensor in weights_of(export.folder).values()}
    assert formats == {torch.bfloat16 if export.source.dtype == "bf16" else torch.float32}
    index = read_index(export.checkpoint)
    masters = {name: stored for name, stored in index.items() if name.startswith("optimizer.state.param.")}
    assert masters or export.source.dtype == "fp32"
    for name, stored in masters.items():
        master = read_region(export.checkpoint, stored, (0,) * len(stored.shape), stored.shape)
        weight = index[name.removeprefix("optimizer.state.param.")]
        own = read_region(export.checkpoint, weight, (0,) * len(weight.shape), weight.shape)
        assert torch.equal(master.to(own.dtype), own), name


def test_a_run_is_exported_with_the_rotation_of_the_phase_that_it_trained_last(
    pool: Pool, channel: Path, tmp_path: Path
) -> None:
    """A second phase has another rotary base: the checkpoint at the border has the first one, the last the second."""
    config = run_config(channel, SOURCES["tp1-tied"])
    first = config.phases[0]
    second = first.model_copy(update={"name": "long", "rotary_base": 9000.0, "seq_length": 64})
    evaluation = config.evaluation.model_copy(update={"every_steps": 2 * NUM_STEPS})
    config = config.model_copy(update={"phases": (first, second), "evaluation": evaluation})
    assert pool.run(worlds.train, 1, config, tmp_path / "run", "auto") == [0]
    bases = {}
    for step in (NUM_STEPS, 2 * NUM_STEPS):
        checkpoint, out = RunDir(tmp_path / "run").checkpoint(step), tmp_path / f"out-{step}"
        [told] = pool.run(conversion_jobs.to_hf, 1, checkpoint, out, {})
        assert told.startswith("proven"), told
        bases[step] = json.loads((out / "config.json").read_text())["rope_theta"]
    assert bases == {NUM_STEPS: 500.0, 2 * NUM_STEPS: 9000.0}
    samples = pool.run(conversion_jobs.held_out, 1, config, tmp_path / "run")[0]
    [theirs] = pool.run(conversion_jobs.exported, 1, tmp_path / f"out-{2 * NUM_STEPS}", samples)
    assert float(np.abs(samples.logits[..., :VOCAB_SIZE] - theirs.logits).max()) <= 1e-4


def test_training_goes_on_from_a_converted_model(pool: Pool, channel: Path, tmp_path: Path) -> None:
    """`--resume must` begins at step 0 with the converted weights, and a fresh optimizer, at another layout."""
    config = run_config(channel, SOURCES["tp2-pp2"])
    given = write_model(
        tmp_path / "given",
        Variant(
            "start", "llama", {"vocab_size": VOCAB_SIZE, "rope_parameters": {"rope_type": "default", "rope_theta": 5e3}}
        ),
    )
    [told] = pool.run(conversion_jobs.from_hf, 1, given, tmp_path / "run", {})
    assert told.startswith("proven"), told
    model = open_either(tmp_path / "run" / "checkpoints" / "step_0000000").model
    config = config.model_copy(update={"model": model})
    assert pool.run(worlds.train, 4, config, tmp_path / "run", "must") == [0] * 4
    begun, first, *_ = read_records(RunDir(tmp_path / "run").metrics)
    samples = pool.run(conversion_jobs.held_out, 4, config, tmp_path / "run")[0]
    [before] = pool.run(conversion_jobs.exported, 1, given, samples._replace(logits=None))
    # Held-out and training text are of one kind; a model that was not loaded would be at log(301) = 5.7.
    assert (begun.step, first.step) == (0, 1)
    assert begun.values["valid/lm_loss/zh"] == pytest.approx(before.loss, rel=1e-5)
    assert first.values["train/lm_loss"] == pytest.approx(before.loss, rel=0.1)
    assert (tmp_path / "run" / "checkpoints" / "step_0000003").is_dir()
