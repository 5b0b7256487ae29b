"""Losses by position and of needles: those of a plain model, under every layout."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import worlds
from pool import Pool
from reference import hugging_face_model, token_losses
from small_run import CHANNELS, Grid, launch, records, small_config

from harness.channels.channels import open_channel
from harness.data.needles import DEPTHS
from harness.data.order.recipe import recipe_for
from harness.plan.plan import make_plan
from harness.train.components.held_out import HeldOut, open_held_out

PROBED: dict[str, Any] = {
    "phases.train_steps": 2,
    "phases.seq_length": 64,
    "phases.global_batch_size": 4,
    "model.num_query_groups": 4,
    "optimizer.learning_rate": 1e-30,  # weights never move
    "evaluation.every_steps": 2,
    "evaluation.num_samples_per_channel": 5,
    "evaluation.loss_by_position": True,
    "evaluation.num_needles_per_depth": 2,
}
GRIDS = {
    "one-rank": Grid(),
    "dp2": Grid(dp=2, micro_batch_size=2),
    "cp2": Grid(cp=2),
    "tp2-pp2-vp2": Grid(tp=2, pp=2, vp=2, sequence_parallel=True),
}


def held_out_of(corpus: Path) -> HeldOut:
    config = small_config(corpus, changes=PROBED)
    plan = make_plan(config, 1)
    recipe = recipe_for(config, plan.phases)
    channels = [open_channel(name, config.data.channels[name]) for name in recipe.channel_names]
    held_out = open_held_out(config, plan.phases[0], channels, recipe, None)
    assert held_out is not None
    return held_out


@pytest.fixture(scope="module")
def expected(pool: Pool, corpus: Path) -> dict[str, float]:
    """The means, token by token, of Hugging Face's model with the run's first weights."""
    config, held_out = small_config(corpus, changes=PROBED), held_out_of(corpus)
    reference = hugging_face_model(config.model, pool.run(worlds.initial_weights, 1, config)[0])
    names = [*CHANNELS, "needles"]
    losses: dict[str, list[float]] = defaultdict(list)
    for each in held_out.all_sets:
        for batch in each.micro_batches(0, 1, 1):
            assert batch.places_BS is not None
            with torch.no_grad():
                (of_tokens,) = token_losses(reference, batch).tolist()
            name = names[int(batch.channel_ids_B[0])]
            for position, loss in enumerate(of_tokens):
                if not batch.loss_mask_BS[0, position]:
                    continue
                if name == "needles":
                    losses[f"valid/needle_loss/{DEPTHS[int(batch.places_BS[0, position])]}"].append(loss)
                    continue
                start = next(start for start in (32, 16, 0) if start <= position)
                losses[f"valid/position_loss/{name}/{start}"].append(loss)
                losses[f"valid/lm_loss/{name}"].append(loss)
    return {name: sum(each) / len(each) for name, each in losses.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", GRIDS)
def test_probes_are_those_of_a_plain_model(
    name: str, pool: Pool, corpus: Path, expected: dict[str, float], tmp_path: Path
) -> None:
    launch(pool, small_config(corpus, GRIDS[name], PROBED), tmp_path)
    first, last = records(tmp_path)
    assert not any(key.startswith("valid/") for key in first.values)
    found = {key: value for key, value in last.values.items() if key.startswith("valid/")}
    assert set(found) == set(expected)
    assert len(found) == len(CHANNELS) * 4 + len(DEPTHS)
    assert found == pytest.approx(expected, rel=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left_out", "kept"),
    [
        ("evaluation.loss_by_position", ("valid/lm_loss/", "valid/needle_loss/")),
        ("evaluation.num_needles_per_depth", ("valid/lm_loss/", "valid/position_loss/")),
    ],
)
def test_each_probe_works_alone(
    left_out: str, kept: tuple[str, str], pool: Pool, corpus: Path, expected: dict[str, float], tmp_path: Path
) -> None:
    changes = {key: value for key, value in PROBED.items() if key != left_out}
    launch(pool, small_config(corpus, GRIDS["dp2"], changes), tmp_path)
    found = {key: value for key, value in records(tmp_path)[-1].values.items() if key.startswith("valid/")}
    assert found == pytest.approx({key: value for key, value in expected.items() if key.startswith(kept)}, rel=2e-6)


@pytest.mark.slow
def test_positions_are_those_in_documents_that_are_kept_apart(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    changes = {**PROBED, "data.reset_at_document_borders": True, "data.eod_mask_loss": False}
    launch(pool, small_config(corpus, Grid(cp=2), changes), tmp_path / "cp2")
    launch(pool, small_config(corpus, Grid(), changes), tmp_path / "alone")
    found, expected = (records(tmp_path / name)[-1].values for name in ("cp2", "alone"))
    probes = {key: value for key, value in expected.items() if key.startswith("valid/")}
    assert {key: found[key] for key in probes} == pytest.approx(probes, rel=1e-5)
    assert {key for key in found if key.startswith("valid/")} == set(probes)
