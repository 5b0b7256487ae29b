"""The settings of Muon: they need it, in the run and in its phases."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from harness.config.phase_settings import in_phase
from harness.config.schema import Config, OptimizerConfig
from harness.config.validate import cross_field_problems
from harness.parameters.optimizers import ADAMW, MUON


def config(optimizer: dict[str, Any], of_phase: dict[str, Any] | None = None) -> Config:
    phase = {"name": "main", "train_steps": 9, "seq_length": 8, "global_batch_size": 2, "blend": {"zh": 1}}
    return Config.model_validate(
        {
            "run": {"name": "x"},
            "model": {
                "num_layers": 2,
                "hidden_size": 8,
                "num_attention_heads": 2,
                "ffn_hidden_size": 16,
                "vocab_size": 64,
            },
            "data": {"channels": {"zh": {"path": "zh"}}},
            "phases": [phase | {"optimizer": of_phase or {}}],
            "optimizer": {"learning_rate": 1.0, **optimizer},
        }
    )


def test_adamw_is_the_default_and_the_kind_is_one_setting() -> None:
    assert config({}).optimizer.traits is ADAMW
    assert config({"kind": "adamw"}) == config({})
    muon = config({"kind": "muon", "muon_momentum": 0.9}, {"muon_momentum": 0.8, "muon_extra_scale_factor": 0.4})
    assert muon.optimizer.traits is MUON
    assert cross_field_problems(dict(muon)) == []
    own = in_phase(muon, 0).optimizer
    assert (own.muon_momentum, own.muon_extra_scale_factor) == (0.8, 0.4)
    with pytest.raises(ValidationError, match="kind"):
        config({"kind": "lion"})


@pytest.mark.parametrize(
    ("optimizer", "of_phase", "place"),
    [
        ({"muon_momentum": 0.9}, {}, ("optimizer", "muon_momentum")),
        ({"kind": "adamw", "muon_fp32_matmul_prec": "highest"}, {}, ("optimizer", "muon_fp32_matmul_prec")),
        ({"muon_split_qkv": False}, {}, ("optimizer", "muon_split_qkv")),
        ({}, {"muon_momentum": 0.9}, ("phases", 0, "optimizer", "muon_momentum")),
    ],
)
def test_settings_of_muon_need_it(
    optimizer: dict[str, Any], of_phase: dict[str, Any], place: tuple[str | int, ...]
) -> None:
    (problem,) = cross_field_problems(dict(config(optimizer, of_phase)))
    assert problem.location == place
    assert problem.text == "has no effect with optimizer.kind adamw, only with muon; remove it"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("muon_momentum", 1.0),
        ("muon_num_ns_steps", 0),
        ("muon_num_ns_steps", 100),
        ("muon_scale_mode", "match_rms_adamw"),
        ("muon_fp32_matmul_prec", "high"),
        ("muon_extra_scale_factor", 0.0),
    ],
)
def test_absurd_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        OptimizerConfig.model_validate({"learning_rate": 1.0, "kind": "muon", name: value})
