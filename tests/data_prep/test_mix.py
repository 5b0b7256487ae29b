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

from data_prep.channels.mix import Supply, plan_mix, to_yaml
from data_prep.verbs.combine_verbs import mix, number_of_tokens
from harness.errors import UsageError


def supplies(**tokens: int) -> list[Supply]:
    return [Supply(name=name, path=Path("data") / name, tokens=count) for name, count in tokens.items()]


def test_enough_of_everything() -> None:
    plan = plan_mix(supplies(zh=1000, en=1000, code=1000), {"zh": 4, "en": 4, "code": 2}, 1000, max_epochs=1)
    assert [channel.planned_tokens for channel in plan.channels] == [400, 400, 200]
    assert [channel.epochs for channel in plan.channels] == [0.4, 0.4, 0.2]
    assert not any(channel.missing_tokens for channel in plan.channels)
    assert plan.longest_tokens_at_wanted_shares == 2500


def test_a_short_channel_gives_what_it_can_and_the_others_the_rest() -> None:
    plan = plan_mix(supplies(zh=100, en=10_000, code=10_000), {"zh": 4, "en": 4, "code": 2}, 2000, max_epochs=4)
    zh, en, code = plan.channels
    # zh: 800 wanted, 400 possible; the other 1,600 are shared 4 : 2.
    assert (zh.planned_tokens, zh.epochs, zh.missing_tokens) == (400, 4.0, 100)
    assert (en.planned_tokens, code.planned_tokens) == (1066, 533)
    assert (zh.wanted_share, zh.missing_tokens > 0, en.missing_tokens) == (0.4, True, 0)
    assert plan.longest_tokens_at_wanted_shares == 1000


def test_too_little_of_everything() -> None:
    plan = plan_mix(supplies(zh=100, en=50), {"zh": 1, "en": 1}, 10_000, max_epochs=2)
    assert [channel.planned_tokens for channel in plan.channels] == [200, 100]
    assert [channel.share for channel in plan.channels] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert (plan.planned_tokens, plan.train_tokens) == (300, 10_000)


@given(
    tokens=st.lists(st.integers(1, 10**12), min_size=1, max_size=6),
    data=st.data(),
    train_tokens=st.integers(1000, 10**13),
    max_epochs=st.floats(0.1, 50),
)
def test_any_plan(tokens: list[int], data: st.DataObject, train_tokens: int, max_epochs: float) -> None:
    names = [f"c{number}" for number in range(len(tokens))]
    weights = {name: data.draw(st.floats(0.001, 1000)) for name in names}
    found = supplies(**dict(zip(names, tokens, strict=True)))
    if not any(int(count * max_epochs) for count in tokens):
        return
    plan = plan_mix(found, weights, train_tokens, max_epochs)
    room = sum(int(count * Fraction(max_epochs)) for count in tokens)
    # Nothing is left lying that could be given, and nobody gives more than allowed.
    assert min(train_tokens, room) - 2 * len(names) <= plan.planned_tokens <= train_tokens
    assert all(channel.epochs <= max_epochs * (1 + 1e-9) for channel in plan.channels)
    full = [channel.epochs >= max_epochs * (1 - 1e-9) - 1 / channel.available_tokens for channel in plan.channels]
    ratios = [
        channel.planned_tokens / weights[channel.name]
        for channel, is_full in zip(plan.channels, full, strict=True)
        if not is_full
    ]
    if ratios:
        slack = max(1 / weight for weight in weights.values())
        assert max(ratios) - min(ratios) <= 1e-6 * max(ratios) + slack


def test_shares_and_channels_have_to_fit() -> None:
    for shares, words in (
        ({"zh": 1.0}, "channel en has no share. Give --share en=WEIGHT"),
        ({"zh": 1.0, "en": 1.0, "fr": 1.0}, "--share fr: there is no such channel. Channels: zh, en."),
    ):
        with pytest.raises(UsageError, match=words):
            plan_mix(supplies(zh=1, en=1), shares, 10, 1)
    with pytest.raises(UsageError, match="channel zh has no tokens yet"):
        plan_mix(supplies(zh=0), {"zh": 1}, 10, 1)
    with pytest.raises(UsageError, match="hold 1 tokens; at --max-epochs 0.5 that leaves none to train on: raise"):
        plan_mix(supplies(zh=1), {"zh": 1}, 10, 0.5)
    with pytest.raises(UsageError, match="two channels have the same name"):
        plan_mix([*supplies(zh=1), *supplies(zh=1)], {"zh": 1}, 10, 1)


def test_yaml_is_a_section_of_a_configuration() -> None:
    plan = plan_mix(supplies(zh=1000, en=1000), {"zh": 3, "en": 1}, 1000, max_epochs=1)
    text = to_yaml(plan)
    assert yaml.safe_load(text) == {"data": {"channels": {"zh": {"path": "data/zh"}, "en": {"path": "data/en"}}}}
    assert "#   train_tokens: 1000\n#   blend: {zh: 0.75, en: 0.25}\n" in text


@pytest.mark.parametrize(
    ("text", "number"),
    [("250M", 250_000_000), ("100B", 10**11), ("1.5t", 1_500_000_000_000), ("100e9", 10**11), ("1_000", 1000)],
)
def test_numbers_of_tokens(text: str, number: int) -> None:
    assert number_of_tokens(text) == number


@pytest.mark.parametrize("text", ["", "many", "B", "-1", "0", "nan", "inf", "1e400"])
def test_no_numbers_of_tokens(text: str) -> None:
    allowed = r"from 1 to 9,007,199,254,740,992\. Allowed are for example 250M, 100B, 1\.5T or 100e9"
    with pytest.raises(UsageError, match=f"is not a number of tokens {allowed}"):
        number_of_tokens(text)


@pytest.fixture
def channels(tmp_path: Path) -> Path:
    write_channel(tmp_path / "data" / "zh", [[1] * 100])
    write_channel(tmp_path / "data" / "en", [[1] * 300])
    return tmp_path / "data"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(mix, [str(argument) for argument in arguments])


def test_command_prints_a_table_and_what_is_missing(channels: Path) -> None:
    output = call(channels, "--share", "zh=1", "--share", "en=1", "--tokens", "2000", "--max-epochs", "2").stdout
    assert any("zh" in line and "100" in line and "2.00" in line for line in output.splitlines())
    assert "The wanted shares last for 400 tokens at 2 epochs." in output
    assert "The channels have 800 of the 2,000 tokens: 1,200 are missing." in output


def test_command_prints_json_and_yaml(channels: Path) -> None:
    arguments = (channels, "--share", "zh=1", "--share", "en=1", "--tokens", "200")
    plan = json.loads(call(*arguments, "--json").stdout)
    assert [(channel["name"], channel["planned_tokens"]) for channel in plan["channels"]] == [("en", 100), ("zh", 100)]
    assert call(*arguments, "--yaml").stdout.startswith(f"data:\n  channels:\n    en: {{path: {channels}/en}}\n")


@pytest.mark.parametrize("share", ["zh", "zh=", "=1", "zh=0", "zh=-1", "zh=much", "zh=nan"])
def test_shares_have_a_name_and_a_weight(channels: Path, share: str) -> None:
    error = call(channels, "--share", share, "--tokens", "1000").exception
    assert f"--share {share!r} is not CHANNEL=WEIGHT with a weight above 0" in str(error)


def test_the_corpus_file_says_it_too(channels: Path, tmp_path: Path) -> None:
    file = tmp_path / "corpus.yaml"
    start = "output: made\nsources: {zh: {input: [raw]}, en: {input: [raw]}}\n"
    file.write_text(start)
    assert "has no section mix. Write one" in str(call("--config", file).exception)
    file.write_text(f"{start}mix: {{channels: {channels}, shares: {{zh: 1, en: 1}}, tokens: '2000', max_epochs: 2}}\n")
    said = call("--config", file).stdout
    assert said == call(channels, "--share", "zh=1", "--share", "en=1", "--tokens", "2000", "--max-epochs", "2").stdout
    for sampling, options in (
        ("unimax", ("--sampling", "unimax")),
        ("temperature, temperature: 2", ("--sampling", "temperature", "--temperature", "2")),
    ):
        file.write_text(f"{start}mix: {{channels: {channels}, sampling: {sampling}, tokens: '2000'}}\n")
        assert call("--config", file).stdout == call(channels, *options, "--tokens", "2000").stdout
    for wrong, problem in (
        ("shares: {zh: 1}, sampling: unimax", "must have either `shares` or `sampling`"),
        ("max_epochs: 2", "must have either `shares` or `sampling`"),
        ("sampling: unimax, temperature: 2", "must have `temperature` exactly if `sampling` is temperature"),
    ):
        file.write_text(f"{start}mix: {{channels: {channels}, {wrong}, tokens: '2000'}}\n")
        assert problem in str(call("--config", file).exception)
    file.write_text(f"{start}mix: {{channels: {channels}, shares: {{zh: 1, en: 1}}, tokens: '2000', max_epochs: 2}}\n")
    both = call("--config", file, "--tokens", "5").exception
    assert "stand in the section `mix` of --config: leave them out" in str(both)
    assert "give CHANNELS, --share for each and --tokens" in str(call(channels).exception)
