"""Modules that predict further tokens draw the curve of a plain loop with hand-shifted losses, and its gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import worlds
from further_token_reference import PlainModel, train_modules
from pool import Pool
from small_run import launch, records, small_config

NUM_STEPS = 20
MODULES: dict[str, Any] = {"model.mtp_num_layers": 2, "model.mtp_loss_scaling_factor": 0.3, "model.num_layers": 2}


UNTIED = {"model.untie_embeddings_and_output_weights": True}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "tied": ({}, NUM_STEPS),
    "untied, documents apart": (UNTIED | {"data.reset_at_document_borders": True}, 5),
}


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "num_steps"), CASES.values(), ids=CASES)
def test_modules_equal_a_plain_loop(
    changes: dict[str, Any], num_steps: int, pool: Pool, corpus: Path, tmp_path: Path
) -> None:
    config = small_config(corpus, changes={**MODULES, **changes, "run.stop_at_step": num_steps})
    plain = train_modules(PlainModel(config.model, pool.run(worlds.initial_weights, 1, config)[0]), config, num_steps)
    launch(pool, config, tmp_path)
    found = records(tmp_path)
    for number, name in enumerate(("train/lm_loss", "train/mtp_loss/1", "train/mtp_loss/2")):
        expected = [step["losses"][number] for step in plain]
        assert [record.values[name] for record in found] == pytest.approx(expected, rel=1e-5)
    norms = [record.values["optim/grad_norm"] for record in found]
    assert norms == pytest.approx([step["grad_norm"] for step in plain], rel=1e-4)


def test_the_main_loss_is_that_of_the_model_without_modules(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    """Weights are drawn by name, so a first step differs in its gradient only, and in what is recorded beside."""
    values = []
    for name, changes in (("with", MODULES), ("without", {"model.num_layers": 2})):
        config = small_config(corpus, changes={**changes, "run.stop_at_step": 1})
        launch(pool, config, tmp_path / name)
        values.append(
            {k: v for k, v in records(tmp_path / name)[0].values.items() if k.startswith(("train/", "optim/"))}
        )
    with_modules, without = values
    assert with_modules.pop("optim/grad_norm") > without.pop("optim/grad_norm")
    assert {name for name in with_modules if name not in without} == {"train/mtp_loss/1", "train/mtp_loss/2"}
    assert {name: with_modules[name] for name in without} == without
