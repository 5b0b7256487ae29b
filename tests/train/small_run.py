"""A small run for the tests of the trainer: its data, its configuration, and what it recorded."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import worlds
from pool import Pool

from harness.config.schema import Config
from harness.plan.layout_rules import ranks_per_copy
from harness.run.paths import RunDir
from harness.run.records import StepRecord, read_records

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Megatron warns of every optional package that is missing
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

VOCAB_SIZE = 1000
CHANNELS = ("zh", "en", "code")
NUM_STEPS = 50
"""Length of the base run; other layouts stop earlier, on the same schedule."""
LAYOUT_STEPS = 10
EVALUATION = {"evaluation.every_steps": 10, "evaluation.num_samples_per_channel": 8}
GENTLE: dict[str, Any] = {
    "phases.global_batch_size": 4,
    "optimizer.learning_rate": 2e-3,
    "optimizer.adam_eps": 1e-5,  # Adam makes a whole step of a gradient that is nothing but rounding
    "model.init_method_std": 0.1,  # no choice of a router hangs on the last bit
}
"""Changes that keep rounding from growing step by step. With an epsilon of 1e-8 gradient norms of six dense layers at
tp2 pp2 were 2e-5 from those of one rank within ten steps, with 1e-6 2e-6, with 1e-4 5e-7."""

_VALUES: dict[str, Any] = {
    "run": {"name": "small", "seed": 7},
    "model": {
        "num_layers": 4,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "ffn_hidden_size": 96,
        "vocab_size": VOCAB_SIZE,
        "untie_embeddings_and_output_weights": False,
    },
    "phases": [
        {
            "name": "main",
            "train_steps": NUM_STEPS,
            "seq_length": 32,
            "global_batch_size": 8,
            # Eight samples a step: code is in about every second step.
            "blend": {"zh": 8, "en": 6, "code": 1},
            "schedule": {"style": "cosine", "warmup_steps": 4},
        }
    ],
    "optimizer": {"learning_rate": 5e-3},
    "precision": {"dtype": "fp32"},
    "logging": {"tensorboard": False},
}


class Grid(NamedTuple):
    """How a run is laid out."""

    tp: int = 1
    pp: int = 1
    vp: int = 1
    dp: int = 1
    ep: int = 1
    etp: int | None = None
    sequence_parallel: bool = False
    first_stage: int | None = None
    micro_batch_size: int = 1
    cp: int = 1
    exchange: str | None = None
    layout: str | None = None
    counts_ends: bool = False

    @property
    def world_size(self) -> int:
        return self.tp * self.pp * self.dp * self.cp

    def settings(self) -> dict[str, Any]:
        return {
            "tensor_model_parallel_size": self.tp,
            "pipeline_model_parallel_size": self.pp,
            "virtual_pipeline_model_parallel_size": self.vp if self.vp > 1 else None,
            "data_parallel_size": self.dp,
            "context_parallel_size": self.cp,
            "cp_comm_type": self.exchange,
            "expert_model_parallel_size": self.ep,
            "expert_tensor_parallel_size": self.etp,
            "sequence_parallel": self.sequence_parallel,
            "num_layers_in_first_pipeline_stage": self.first_stage,
            "pipeline_model_parallel_layout": self.layout,
            "account_for_embedding_in_pipeline_split": self.counts_ends,
            "account_for_loss_in_pipeline_split": self.counts_ends,
            "micro_batch_size": self.micro_batch_size,
        }


Steps = list[tuple[float, float]]
"""Loss and gradient norm of each step."""
TakeSteps = Callable[[Grid, dict[str, Any]], Steps]
"""Gives the first steps under a grid, with changes to a run."""
LayoutRun = Callable[[Grid], Path]
"""Gives the run directory of a grid; the run is made when it is asked for first."""
KindRun = Callable[[str, Grid], Path]
"""The same for several kinds of runs, by name."""


def kept_runs(pool: Pool, corpus: Path, folder: Path, kinds: Mapping[str, dict[str, Any]]) -> KindRun:
    """Give runs of the small configuration with the changes of a kind."""
    made: dict[tuple[str, Grid], Path] = {}

    def run(kind: str, grid: Grid) -> Path:
        if (kind, grid) not in made:
            made[kind, grid] = folder / f"{kind}-{len(made)}"
            changes = {"run.stop_at_step": LAYOUT_STEPS, **EVALUATION, **kinds[kind]}
            launch(pool, small_config(corpus, grid, changes), made[kind, grid])
        return made[kind, grid]

    return run


def write_corpus(folder: Path, longest: int = 90) -> Path:
    """Three channels of documents that can be learnt: a token follows from the one before, but for a little chance."""
    for number, name in enumerate(CHANNELS):
        random = np.random.RandomState(number)  # its numbers never change, unlike those of numpy's newer generators
        documents = [_document(number, random.randint(1, longest + 1), random) for _ in range(300)]
        write_documents(folder / name, documents)
    return folder


def _document(channel: int, length: int, random: np.random.RandomState) -> list[int]:
    tokens = [int(random.randint(VOCAB_SIZE))]
    while len(tokens) < length:
        tokens.append((5 * tokens[-1] + 17 * channel + int(random.randint(3))) % VOCAB_SIZE)
    return tokens


def write_documents(prefix: Path, documents: list[list[int]]) -> None:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for document in documents:
        builder.add_document(np.array(document), [len(document)])
    builder.finalize(f"{prefix}.idx")


def small_config(corpus: Path, grid: Grid | None = None, changes: Mapping[str, Any] | None = None) -> Config:
    """The small run on a corpus, laid out as the grid says, with `changes` by dotted name (`model.num_layers`)."""
    values = copy.deepcopy(_VALUES)
    values["data"] = {"channels": {name: {"path": corpus / name} for name in CHANNELS}}
    values["parallel"] = (grid or Grid()).settings()
    for place, value in (changes or {}).items():
        *sections, key = place.split(".")
        target = values
        for section in sections:
            target = target[0] if isinstance(target, list) else target
            target = target.setdefault(section, {})
        (target[0] if isinstance(target, list) else target)[key] = value
    return Config.model_validate(values)


def launch(pool: Pool, config: Config, run_dir: Path, resume: str = "auto") -> None:
    """Runs a whole launch on as many processes as the configuration's layout needs; it must finish well."""
    parallel = config.parallel
    world_size = ranks_per_copy(config) * (parallel.data_parallel_size or 1)
    assert pool.run(worlds.train, world_size, config, run_dir, resume) == [0] * world_size


def steps_taker(pool: Pool, corpus: Path, folder: Path, of: Mapping[str, Any], num_steps: int) -> TakeSteps:
    """What takes the first steps of the small run with the changes `of`, and with others; each is taken once."""
    made: dict[str, Steps] = {}

    def take(grid: Grid, changes: dict[str, Any]) -> Steps:
        key = repr((grid, changes))
        if key not in made:
            config = small_config(corpus, grid, {**of, **changes})
            made[key] = pool.run(worlds.steps, grid.world_size, config, folder / str(len(made)), num_steps)[0]
        return made[key]

    return take


def records(run_dir: Path) -> list[StepRecord]:
    return list(read_records(RunDir(run_dir).metrics))


def assert_the_same(run: list[StepRecord], base: list[StepRecord], tolerance: float) -> None:
    """All metrics of every step but those of speed, and which experts got how much."""
    for record, expected in zip(run, base, strict=True):
        found, wanted = (
            {name: value for name, value in each.values.items() if not name.startswith("perf/")}
            for each in (record, expected)
        )
        assert found.keys() == wanted.keys()
        assert found == pytest.approx(wanted, rel=tolerance)
        assert record.experts_by_layer == expected.experts_by_layer


def column(run_dir: Path, name: str) -> list[float]:
    """A metric of every step that has it."""
    return [record.values[name] for record in records(run_dir) if name in record.values]
