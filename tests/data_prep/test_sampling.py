"""Weights of channels by temperature and by UniMax, against worked numbers, and in `harness data mix`."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from channel_files import write_channel
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from data_prep.channels.mix import Supply, plan_by_temperature, plan_by_unimax, repetition_warnings
from data_prep.channels.sampling import temperature_weights, unimax_tokens
from data_prep.verbs.combine_verbs import mix
from harness.config.load import load_config
from harness.errors import UsageError
from harness.plan.demand import demands
from harness.plan.plan import make_plan


def test_temperature_1_is_the_share_of_the_tokens_and_2_that_of_their_roots() -> None:
    tokens = {"en": 900, "de": 90, "sw": 10}
    assert temperature_weights(tokens, 1) == pytest.approx({"en": 0.9, "de": 0.09, "sw": 0.01})
    # 30, 9.4868 and 3.1623, of 42.6491.
    assert temperature_weights(tokens, 2) == pytest.approx({"en": 0.703415, "de": 0.222440, "sw": 0.074146}, abs=1e-6)
    assert temperature_weights(tokens, 1000) == pytest.approx(dict.fromkeys(tokens, 1 / 3), abs=1e-3)


def test_a_low_temperature_over_trillions_does_not_overflow() -> None:
    assert temperature_weights({"en": 9 * 10**15, "sw": 1}, 0.1) == {"en": 1.0, "sw": pytest.approx(0, abs=1e-100)}


def test_unimax_is_even_up_to_the_limits_smallest_first() -> None:
    # 1,000 tokens for four: sw may give 40; of the 960 left a third is 320, and yo may give 200; of 760 half is 380.
    assert unimax_tokens({"en": 5000, "de": 600, "yo": 200, "sw": 40}, 1000) == {
        "en": 380,
        "de": 380,
        "yo": 200,
        "sw": 40,
    }
    assert unimax_tokens({"en": 100, "de": 50}, 1000) == {"en": 100, "de": 50}
    assert unimax_tokens({"en": 100, "de": 100, "fr": 100}, 10) == {"en": 3, "de": 3, "fr": 4}
    with pytest.raises(UsageError, match=r"2 tokens are not one for each of 3 channels"):
        unimax_tokens({"en": 1, "de": 1, "fr": 1}, 2)


@given(limits=st.lists(st.integers(0, 10**15), min_size=1, max_size=8), budget=st.integers(8, 10**15))
def test_any_unimax(limits: list[int], budget: int) -> None:
    named = {f"c{number}": limit for number, limit in enumerate(limits)}
    taken = unimax_tokens(named, budget)
    assert sum(taken.values()) == min(budget, sum(limits))
    assert all(taken[name] <= limit for name, limit in named.items())
    below = [taken[name] for name, limit in named.items() if taken[name] < limit]
    assert not below or max(below) - min(below) <= len(limits)
    assert not below or all(count <= max(below) for count in taken.values())


def supplies(**tokens: int) -> list[Supply]:
    return [Supply(name=name, path=Path("data") / name, tokens=count) for name, count in tokens.items()]


def test_plans_keep_the_limit_on_epochs() -> None:
    plan = plan_by_unimax(supplies(en=10_000, sw=100), 2000, 4)
    assert [(each.planned_tokens, each.epochs) for each in plan.channels] == [(1600, 0.16), (400, 4.0)]
    plan = plan_by_temperature(supplies(en=10_000, sw=100), 1000, 2000, 4)
    assert [each.planned_tokens for each in plan.channels] == [1600, 400]
    used = Supply(name="sw", path=Path("data/sw"), tokens=100, used_epochs=Fraction(3))
    plan = plan_by_unimax([*supplies(en=10_000), used], 2000, 4)
    assert [(each.planned_tokens, each.epochs) for each in plan.channels] == [(1900, 0.19), (100, 4.0)]


@pytest.mark.parametrize(("max_epochs", "words"), [(4, None), (5, "nearly as good as new"), (3000, "next to nothing")])
def test_a_plan_that_repeats_too_often_warns(max_epochs: float, words: str | None) -> None:
    warnings = repetition_warnings(plan_by_unimax(supplies(en=10**6, sw=1), 10**6, max_epochs))
    assert len(warnings) == (words is not None)
    if words is not None:
        assert words in warnings[0]
        assert f"channel sw would be passed through {'3,000' if max_epochs > 10 else '5.0'} times" in warnings[0]


@pytest.fixture
def channels(tmp_path: Path) -> Path:
    write_channel(tmp_path / "data" / "zh", [[1] * 100])
    write_channel(tmp_path / "data" / "en", [[1] * 900])
    return tmp_path / "data"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(mix, [str(argument) for argument in arguments])


def planned(*arguments: object) -> dict[str, tuple[int, float]]:
    found = json.loads(call(*arguments, "--json").stdout)
    return {channel["name"]: (channel["planned_tokens"], channel["epochs"]) for channel in found["channels"]}


def test_the_command_samples(channels: Path) -> None:
    unimax = planned(channels, "--sampling", "unimax", "--tokens", "1000", "--max-epochs", "2")
    assert unimax == {"en": (800, pytest.approx(8 / 9)), "zh": (200, 2.0)}
    root = planned(channels, "--sampling", "temperature", "--temperature", "2", "--tokens", "400")
    assert root == {"en": (300, pytest.approx(1 / 3)), "zh": (100, 1.0)}
    said = call(channels, "--sampling", "unimax", "--tokens", "5000", "--max-epochs", "40")
    assert (
        "WARNING: channel zh would be passed through 25 times: 2,500 tokens are asked, and as of now 100" in said.stderr
    )


def test_weights_are_written_into_a_new_file_only(channels: Path, tmp_path: Path) -> None:
    file = tmp_path / "blend.yaml"
    arguments = (channels, "--sampling", "unimax", "--tokens", "1000", "--max-epochs", "2", "--output", file)
    assert call(*arguments).exit_code == 0
    assert "#   blend: {en: 800, zh: 200}\n" in file.read_text()
    file.write_text("mine")
    assert "is there already. Nothing is replaced" in str(call(*arguments).exception)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sampling", "unimax", "--share", "zh=1"), "computes the weights that --share gives"),
        (("--sampling", "unimax", "--config", "corpus.yaml"), "computes the weights that --config gives"),
        (("--sampling", "temperature"), "needs --temperature"),
        (("--temperature", "2"), "has no effect without --sampling temperature"),
        (("--phase", "main"), "--phase names a phase of --run"),
        (("--run", "run.yaml", "--tokens", "5"), "stand in the configuration of --run"),
    ],
)
def test_options_that_contradict_each_other(arguments: tuple[str, ...], words: str) -> None:
    error = call(*arguments).exception
    assert isinstance(error, UsageError)
    assert words in str(error)


def run_file(folder: Path, channels: Path, blend: dict[str, float], **phase: object) -> Path:
    first = {"name": "first", "train_steps": 10, "seq_length": 8, "global_batch_size": 2, "blend": {"zh": 1.0}}
    second = {"name": "main", "train_steps": 100, "seq_length": 8, "global_batch_size": 4, "blend": blend, **phase}
    model = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "ffn_hidden_size": 8, "vocab_size": 64}
    values = {
        "run": {"name": "small"},
        "model": model,
        "data": {"channels": {name: {"path": str(channels / name)} for name in ("zh", "en")}},
        "phases": [first, second],
        "optimizer": {"learning_rate": 0.1},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def test_a_phase_gets_weights_that_keep_its_limit(channels: Path, tmp_path: Path) -> None:
    file = run_file(tmp_path, channels, {"zh": 1.0, "en": 1.0})
    assert "has 2 phases (first, main): give --phase" in str(call("--run", file).exception)
    assert "--phase last: there is no such phase" in str(call("--run", file, "--phase", "last").exception)
    said = call("--run", file, "--phase", "main", "--sampling", "unimax", "--max-epochs", "4", "--yaml").stdout
    blend = yaml.safe_load(said.split("blend: ")[1])
    # 12 samples of zh, 20 of them are trained on before: of 48 that leaves 28, of 8 tokens.
    assert blend == {"zh": 28 * 8, "en": 3200 - 28 * 8}
    config = load_config(run_file(tmp_path, channels, blend, max_epochs=4.0))
    found = {demand.channel: demand.epochs for demand in demands(config, make_plan(config, 1))}
    assert found == {"zh": pytest.approx(4.0), "en": pytest.approx((3200 - 28 * 8) / 8 / 112)}
