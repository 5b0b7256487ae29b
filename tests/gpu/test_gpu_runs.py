"""Runs on GPUs: they learn, whatever the layout; they go on from checkpoints; and they agree with the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_runs import column, train, write_text
from pretended import end_if_pretended

from harness.run import metric_names as names
from harness.run.paths import RunDir

STEPS = 10
FEW = {"run.stop_at_step": STEPS, "checkpoint.save_every_steps": 5}
BF16 = {"precision.dtype": "bf16"}
SAME = {"rel": 1e-4}
"""fp32 on one kind of GPU, in another order of sums. (Products are not rounded to TF32: torch's default.)"""
COMPARED = (names.LM_LOSS, names.lm_loss_of("zh"), names.GRAD_NORM, names.valid_lm_loss_of("en"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def base(text: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """10 steps in fp32 on one GPU, saved and evaluated every 5."""
    return train(text, tmp_path_factory.mktemp("runs") / "base", FEW)


def assert_same_run(run: RunDir, base: RunDir) -> None:
    for name in COMPARED:
        assert column(run, name)
        assert len(column(run, name)) == len(column(base, name))
    end_if_pretended()
    for name in COMPARED:
        assert column(run, name) == pytest.approx(column(base, name), **SAME)


def test_the_loss_falls(base: RunDir) -> None:
    losses = column(base, names.LM_LOSS)
    assert len(losses) == STEPS
    end_if_pretended()
    assert losses[0] == pytest.approx(torch.tensor(1000.0).log().item(), abs=0.2)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize(
    "changes",
    [{"parallel.micro_batch_size": 4}, {"parallel.recompute": "selective"}, {"parallel.recompute": "full"}],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_how_it_is_computed_changes_nothing(changes: dict[str, Any], text: Path, base: RunDir, tmp_path: Path) -> None:
    run = train(text, tmp_path / "run", {**FEW, **_own_parallel(changes)})
    assert_same_run(run, base)


def _own_parallel(changes: dict[str, Any]) -> dict[str, Any]:
    return {"parallel.data_parallel_size": 1, **changes}


def test_bf16_stays_close_to_fp32(text: Path, base: RunDir, tmp_path: Path) -> None:
    run = train(text, tmp_path / "run", {**FEW, **BF16})
    end_if_pretended()
    assert column(run, names.LM_LOSS) == pytest.approx(column(base, names.LM_LOSS), abs=0.05)
    assert column(run, names.GRAD_NORM) == pytest.approx(column(base, names.GRAD_NORM), rel=0.1)


@pytest.mark.parametrize("recipe", ["tensorwise", "blockwise"])
def test_fp8_stays_close_to_fp32(recipe: str, text: Path, base: RunDir, tmp_path: Path) -> None:
    pytest.importorskip("transformer_engine.pytorch", reason="needs Transformer Engine")
    fp8 = {"precision.dtype": "bf16", "precision.fp8": "hybrid", "precision.fp8_recipe": recipe}
    run = train(text, tmp_path / "run", {**FEW, **fp8})
    end_if_pretended()
    assert column(run, names.LM_LOSS) != column(train(text, tmp_path / "bf16", {**FEW, **BF16}), names.LM_LOSS)
    assert column(run, names.LM_LOSS) == pytest.approx(column(base, names.LM_LOSS), abs=0.1)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_reset_at_document_borders_trains(dtype: str, text: Path, tmp_path: Path) -> None:
    run = train(text, tmp_path / "run", {**FEW, "precision.dtype": dtype, "data.reset_at_document_borders": True})
    end_if_pretended()
    losses = column(run, names.LM_LOSS)
    assert losses[-1] < losses[0] - 0.5


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(text: Path, base: RunDir, tmp_path: Path) -> None:
    train(text, tmp_path / "run", {**FEW, "run.stop_at_step": 5})
    run = train(text, tmp_path / "run", FEW, resume="must")
    assert_same_run(run, base)


def test_a_gpu_and_the_cpu_train_the_same_model(text: Path, tmp_path: Path) -> None:
    """Both go on from one checkpoint (initial weights depend on the device's random numbers)."""
    first = {**FEW, "run.stop_at_step": 5}
    runs = []
    for name in ("gpu", "cpu"):
        train(text, tmp_path / name, first)
        runs.append(train(text, tmp_path / name, FEW, on_gpu=name == "gpu", resume="must"))
    end_if_pretended()
    on_gpu, on_cpu = (column(run, names.LM_LOSS) for run in runs)
    assert on_cpu[:5] == on_gpu[:5]
    assert on_cpu[5:] == pytest.approx(on_gpu[5:], rel=1e-3)


LAYOUTS = {
    "dp2": {"data_parallel_size": 2},
    "tp2": {"tensor_model_parallel_size": 2},
    "tp2-sequence-parallel": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
    "pp2": {"pipeline_model_parallel_size": 2},
    "pp2-vp2": {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2},
    "dp2-tp2": {"data_parallel_size": 2, "tensor_model_parallel_size": 2},
    "dp2-pp2-vp2": {
        "data_parallel_size": 2,
        "pipeline_model_parallel_size": 2,
        "virtual_pipeline_model_parallel_size": 2,
    },
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_trains_the_same(layout: dict[str, Any], text: Path, base: RunDir, tmp_path: Path) -> None:
    needed = 4 if len(layout) > 1 and "data_parallel_size" in layout else 2
    if torch.cuda.device_count() < needed:
        pytest.skip(f"needs {needed} GPUs")
    parallel = {"data_parallel_size": 1, "micro_batch_size": 2, **layout}
    changes = {**FEW, **{f"parallel.{key}": value for key, value in parallel.items()}}
    assert_same_run(train(text, tmp_path / "run", changes), base)


def test_context_parallel_ranks_train_the_same(text: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformer_engine.pytorch", reason="needs Transformer Engine")
    if torch.cuda.device_count() < 2:
        pytest.skip("needs 2 GPUs")
    bf16 = {**FEW, "precision.dtype": "bf16"}
    alone = train(text, tmp_path / "alone", bf16)
    shared = train(text, tmp_path / "shared", {**bf16, "parallel.context_parallel_size": 2})
    end_if_pretended()
    assert column(shared, names.LM_LOSS) == pytest.approx(column(alone, names.LM_LOSS), abs=0.02)
