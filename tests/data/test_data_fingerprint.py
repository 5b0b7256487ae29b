from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest

from harness.channels.channels import Channel, parts_digest
from harness.data import fingerprint
from harness.data.fingerprint import data_fingerprint, fingerprint_filled_in, recorded_parts
from harness.data.order.cursor import Cursor
from harness.data.order.recipe import ChannelRules, PhaseRecipe, Recipe
from harness.run.checkpoints import compare

RECIPE = Recipe(
    seed=7,
    shares={"zh": Fraction(2, 3), "en": Fraction(1, 3)},
    seq_length=16,
    vocab_size=1000,
    held_out_share=0.01,
    reset_at_document_borders=False,
)


def recorded(channels: tuple[Channel, ...], recipe: Recipe = RECIPE) -> dict[str, Any]:
    """As it comes back from a file."""
    loaded: dict[str, Any] = json.loads(json.dumps(data_fingerprint(channels, recipe)))
    return loaded


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """As at resume, without the `data.` at the beginning of each line."""
    lines = compare.differences(fingerprint_filled_in({"data": old}), fingerprint_filled_in({"data": new}))
    assert all(line.startswith("data.") for line in lines)
    return [line.removeprefix("data.") for line in lines]


def test_same_data_has_no_difference(channels: tuple[Channel, ...]) -> None:
    turned = replace(RECIPE, shares=dict(reversed(RECIPE.shares.items())))
    current = data_fingerprint(tuple(reversed(channels)), turned)
    assert differences(recorded(channels), current) == []
    assert "code" not in current["channels"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seed": 8}, "seed: checkpoint 7, now 8"),
        ({"seq_length": 32}, "seq_length: checkpoint 16, now 32"),
        ({"vocab_size": 2000}, "vocab_size: checkpoint 1000, now 2000"),
        ({"held_out_share": 0.02}, "held_out_share: checkpoint 0.01, now 0.02"),
        ({"shares": {"zh": Fraction(1, 3), "en": Fraction(2, 3)}}, 'shares.zh: checkpoint "2/3", now "1/3"'),
    ],
)
def test_changed_setting(channels: tuple[Channel, ...], change: dict[str, Any], line: str) -> None:
    assert differences(recorded(channels), data_fingerprint(channels, replace(RECIPE, **change)))[0] == line


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"reset_at_document_borders": True}, "data.reset_at_document_borders: checkpoint false, now true"),
        ({"eod_mask_loss": True}, "data.eod_mask_loss: checkpoint null, now true"),
    ],
)
def test_what_changes_no_sample_may_change_on_the_way_and_is_told(
    change: dict[str, Any], line: str, channels: tuple[Channel, ...]
) -> None:
    other = replace(RECIPE, **change)
    assert differences(recorded(channels), data_fingerprint(channels, other)) == []
    before, now = (fingerprint_filled_in({"data": data_fingerprint(channels, each)}) for each in (RECIPE, other))
    assert compare.changed_on_the_way(before, now) == [line]
    assert compare.changed_on_the_way(before, before) == []


def test_changed_parts(channels: tuple[Channel, ...]) -> None:
    zh, en, _ = channels
    first, second, third = zh.parts
    altered = replace(zh, parts=(first, replace(second, num_tokens=1, xxh3="f" * 16), third))
    assert differences(recorded(channels), data_fingerprint((altered, en), RECIPE)) == [
        f"channels.zh.parts[part-00001].tokens: checkpoint {second.num_tokens}, now 1",
        f'channels.zh.parts[part-00001].xxh3: checkpoint "{second.xxh3}", now "ffffffffffffffff"',
    ]
    swapped = replace(zh, parts=(second, first, third))
    assert differences(recorded(channels), data_fingerprint((swapped, en), RECIPE)) == [
        "channels.zh.parts: the order differs, first where the checkpoint has 'part-00000' and now is 'part-00001'"
    ]
    own = replace(zh, validation_parts=zh.parts)
    assert differences(recorded(channels), data_fingerprint((own, en), RECIPE)) == [
        "channels.zh.has_validation_path: checkpoint false, now true"
    ]


def test_parts_that_were_not_adopted_are_left_out(channels: tuple[Channel, ...]) -> None:
    zh = channels[0]
    before = replace(zh, parts=zh.parts[:2])
    known = recorded((before, channels[1]))
    history = Cursor().adopt({"zh": (2, "x"), "en": (3, "y")}).history
    assert recorded_parts({"data": known}) == {"zh": 2, "en": 3}
    assert differences(known, data_fingerprint(channels, RECIPE, history)) == []
    assert recorded_parts({}) == {}


def many(channel: Channel, num_parts: int) -> Channel:
    """A channel of as many parts, each with the numbers of its first."""
    parts = (replace(channel.parts[0], name=f"part-{number:05d}") for number in range(num_parts))
    return replace(channel, parts=tuple(parts))


def test_of_many_parts_the_number_and_a_digest_are_told(channels: tuple[Channel, ...]) -> None:
    en = channels[1]
    long = many(channels[0], fingerprint.MOST_LISTED + 1)
    known = recorded((long, en))
    digest = known["channels"]["zh"]["parts_digest"]
    assert digest == {"num_parts": fingerprint.MOST_LISTED + 1, "xxh3": parts_digest(long.parts)}
    assert "parts" not in known["channels"]["zh"]
    assert recorded_parts({"data": known}) == {"zh": fingerprint.MOST_LISTED + 1, "en": 3}
    assert differences(known, data_fingerprint((long, en), RECIPE)) == []
    altered = replace(long, parts=(*long.parts[:500], replace(long.parts[500], num_tokens=1), *long.parts[501:]))
    (line,) = differences(known, data_fingerprint((altered, en), RECIPE))
    assert line.startswith("channels.zh.parts_digest.xxh3: checkpoint ")
    longer = many(channels[0], fingerprint.MOST_LISTED + 2)
    history = Cursor().adopt({"zh": (fingerprint.MOST_LISTED + 1, "x"), "en": (3, "y")}).history
    assert differences(known, data_fingerprint((longer, en), RECIPE, history)) == []


def test_a_long_list_of_an_earlier_version_is_compared_by_its_digest(
    channels: tuple[Channel, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = many(channels[0], 1100)
    with monkeypatch.context() as earlier:
        earlier.setattr(fingerprint, "MOST_LISTED", 10**6)
        listed = recorded((long, channels[1]))
    assert len(listed["channels"]["zh"]["parts"]) == 1100
    assert recorded_parts({"data": listed}) == {"zh": 1100, "en": 3}
    assert differences(listed, data_fingerprint((long, channels[1]), RECIPE)) == []
    other = replace(long, parts=(*long.parts[:-1], replace(long.parts[-1], xxh3="f" * 16)))
    assert len(differences(listed, data_fingerprint((other, channels[1]), RECIPE))) == 1


def test_phases_that_have_begun_and_rules_are_recorded(channels: tuple[Channel, ...]) -> None:
    later = PhaseRecipe(shares={"code": Fraction(1)}, seq_length=64)
    recipe = replace(RECIPE, later_phases=(later,), rules={"zh": ChannelRules(when_low="wait")})
    first = data_fingerprint(channels, recipe)
    assert "later_phases" not in first
    assert set(first["channels"]) == {"zh", "en", "code"}
    second = json.loads(json.dumps(data_fingerprint(channels, recipe, Cursor().begin_phase(1).history)))
    assert second["later_phases"] == [{"seq_length": 64, "shares": {"code": "1"}}]
    longer = replace(recipe, later_phases=(replace(later, seq_length=128),))
    assert differences(second, data_fingerprint(channels, longer, Cursor().begin_phase(1).history)) == [
        "later_phases[0].seq_length: checkpoint 64, now 128"
    ]
    other = replace(recipe, rules={"zh": ChannelRules(when_low="share", max_epochs=2)})
    assert differences(second, data_fingerprint(channels, other, Cursor().begin_phase(1).history)) == [
        'rules.zh.when_low: checkpoint "wait", now "share"',
        "rules.zh.max_epochs: checkpoint null, now 2",
    ]


ALL_RULES = {
    "when_low": "repeat",
    "max_epochs": None,
    "epoch_decay": "1",
    "order": "shuffled",
    "window_parts": 1,
    "packing": "concatenate",
}
"""What an absent field means, for good: the value of each at the time when it came. A new field gets its line here, and
no line ever changes, or else checkpoints that leave the field out would mean something else than they did."""


def test_an_absent_field_means_what_it_meant() -> None:
    assert fingerprint_filled_in({"data": {"rules": {"zh": {}}}})["data"]["rules"] == {"zh": ALL_RULES}


def test_rules_of_before_with_all_fields_are_those_of_today_without(channels: tuple[Channel, ...]) -> None:
    recipe = replace(RECIPE, rules={"zh": ChannelRules(when_low="wait"), "en": ChannelRules()})
    today = recorded(channels, recipe)
    assert today["rules"] == {"zh": {"when_low": "wait"}}
    before = today | {"rules": {"zh": ALL_RULES | {"when_low": "wait"}}}
    assert differences(before, today) == differences(today, before) == []
    other = today | {"rules": {"zh": ALL_RULES | {"when_low": "share"}}}
    assert differences(today, other) == ['rules.zh.when_low: checkpoint "wait", now "share"']
    plain = {name: value for name, value in today.items() if name != "rules"}
    assert len(differences(plain, today)) == len(differences(today, plain)) == 1


@dataclass(frozen=True, kw_only=True)
class LaterRules(ChannelRules):
    least_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class LaterPhase(PhaseRecipe):
    rises: bool = False


@dataclass(frozen=True, kw_only=True)
class LaterRecipe(Recipe):
    mixes_by: str = "tokens"


def later(rules: LaterRules, phase: LaterPhase, mixes_by: str) -> LaterRecipe:
    given = {name: value for name, value in RECIPE.__dict__.items() if name not in ("rules", "later_phases")}
    return LaterRecipe(**given, mixes_by=mixes_by, rules={"zh": rules}, later_phases=(phase,))


def test_a_new_option_of_the_data_is_no_difference_until_it_is_used(
    channels: tuple[Channel, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = PhaseRecipe(shares={"code": Fraction(1)}, seq_length=64)
    history = Cursor().begin_phase(1).history
    recipe = replace(RECIPE, rules={"zh": ChannelRules(when_low="wait")}, later_phases=(phase,))
    old = json.loads(json.dumps(data_fingerprint(channels, recipe, history)))
    for kind in (LaterRules, LaterPhase, LaterRecipe):
        monkeypatch.setattr(fingerprint, kind.__mro__[1].__name__, kind)
    new_phase = LaterPhase(shares=phase.shares, seq_length=64)
    unused = later(LaterRules(when_low="wait"), new_phase, "tokens")
    assert differences(old, data_fingerprint(channels, unused, history)) == []
    used = later(LaterRules(when_low="wait", least_tokens=9), replace(new_phase, rises=True), "documents")
    new = json.loads(json.dumps(data_fingerprint(channels, used, history)))
    assert differences(old, new) == [
        'mixes_by: checkpoint "tokens", now "documents"',
        "later_phases[0].rises: checkpoint false, now true",
        "rules.zh.least_tokens: checkpoint 0, now 9",
    ]
    assert differences(new, old) == [
        'mixes_by: checkpoint "documents", now "tokens"',
        "later_phases[0].rises: checkpoint true, now false",
        "rules.zh.least_tokens: checkpoint 9, now 0",
    ]


@pytest.mark.parametrize(
    ("data", "parts"), [(None, {}), ({"channels": None}, {}), ({"channels": {"zh": {"parts": None}}}, {"zh": 0})]
)
def test_null_in_a_manifest_is_what_is_missing(data: Any, parts: dict[str, int]) -> None:
    assert fingerprint.recorded_parts({"data": data}) == parts
