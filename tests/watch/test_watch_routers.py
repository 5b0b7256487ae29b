"""A router that collapses is told once, after enough steps, and again only if it had come back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from stand_in import StandIn, keep, run_dir_in, watcher

from harness.config.model import ModelConfig
from harness.run.records import to_json_line
from harness.watch.routers import RouterState, watch_routers

EVEN, DEAD, TAKEN = (1.5, 0.0), (4.0, 0.6), (3.8, 0.0)


def model(topk: int = 2, experts: int = 8) -> ModelConfig:
    return ModelConfig(
        num_layers=3,
        hidden_size=8,
        num_attention_heads=2,
        ffn_hidden_size=16,
        vocab_size=64,
        num_moe_experts=experts,
        moe_router_topk=topk,
        moe_layer_freq=[0, 1, 1],
    )


def told(state: RouterState, loads: list[tuple[float, float]], steps: int, *, topk: int = 2) -> list[str]:
    texts = (watch_routers(state, loads, model(topk)) for _ in range(steps))
    return [text for text in texts if text is not None]


@pytest.mark.parametrize("load", [DEAD, TAKEN], ids=["half are dead", "one takes all"])
def test_people_are_told_once_after_fifty_steps(load: tuple[float, float]) -> None:
    state = RouterState()
    assert told(state, [EVEN, load], 49) == []
    (text,) = told(state, [EVEN, load], 500)
    assert text.startswith("routers have collapsed for 50 steps: layer 2 (")


def test_a_step_in_between_begins_anew() -> None:
    state = RouterState()
    told(state, [DEAD, DEAD], 49)
    assert told(state, [EVEN, EVEN], 1) == []
    assert told(state, [DEAD, EVEN], 49) == []
    (text,) = told(state, [DEAD, EVEN], 1)
    assert "layer 1 (60% of its experts had no token, one had 100% of all)" in text
    assert told(state, [EVEN, EVEN], 1) == []
    assert len(told(state, [DEAD, EVEN], 50)) == 1


def test_most_tokens_at_one_of_two_experts_is_no_collapse() -> None:
    """With four of eight experts for each token, one of them may well have all tokens."""
    assert told(RouterState(), [EVEN, (2.0, 0.0)], 100, topk=4) == []


def test_loads_of_another_model_say_nothing() -> None:
    assert told(RouterState(), [DEAD], 100) == []
    dense = ModelConfig(num_layers=2, hidden_size=8, num_attention_heads=2, ffn_hidden_size=16, vocab_size=64)
    assert watch_routers(RouterState(), [], dense) is None


def test_the_watcher_tells_it_also_if_it_was_restarted_in_between(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path))
    values = yaml.safe_load(run.run_dir.config.read_text())
    values["model"] |= {"num_moe_experts": 8, "moe_layer_freq": [0, 1]}
    run.run_dir.config.write_text(yaml.safe_dump(values))
    heard: list[str] = []
    for num_steps in (1, 30, 30, 30):
        for _ in range(num_steps):
            run.step += 1
            record = dataclasses.replace(run.record(), experts_by_layer=((4.0, 0.75),))
            with run.run_dir.metrics.open("a") as file:
                file.write(to_json_line(record))
        watching = watcher(run, told=heard)
        watching.look()
        keep(run, watching)
    (text,) = [text for text in heard if "routers" in text]
    assert "layer 1 (75% of its experts had no token, one had 100% of all)" in text
    alerts = [json.loads(line) for line in (run.run_dir.watch / "alerts.jsonl").read_text().splitlines()]
    assert [(alert["kind"], alert["step"]) for alert in alerts] == [("routers", 50)]
