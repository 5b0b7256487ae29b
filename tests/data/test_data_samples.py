"""The order of a run with a history, held against the same order told plainly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from data_parts import VOCAB_SIZE, Documents, random_documents, write_channel
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_order import PlainOrder, Token

from harness.channels.channels import Channel
from harness.data.files.mcore import MappedPart
from harness.data.order.cursor import Cursor
from harness.data.order.recipe import ChannelRules, PhaseRecipe, Recipe
from harness.data.order.samples import SampleOrder, open_turns
from harness.data.order.turns import ChannelTurns
from harness.errors import DataError
from harness.run.order_changes import DocumentsQuarantined, quarantined_in
from harness.usage.ledger import count_documents, count_parts

NAMES = ("zh", "en", "code")
NUM_PARTS = 4
BATCH = 4
RECIPE = Recipe(
    seed=7,
    shares={"zh": Fraction(2, 3), "en": Fraction(1, 3)},
    seq_length=8,
    vocab_size=VOCAB_SIZE,
    held_out_share=0.0,
    reset_at_document_borders=False,
    later_phases=(
        PhaseRecipe(shares={"zh": Fraction(1, 4), "en": Fraction(1, 4), "code": Fraction(1, 2)}, seq_length=5),
        PhaseRecipe(shares={"zh": Fraction(1)}, seq_length=19),
        PhaseRecipe(shares={"code": Fraction(5, 7), "zh": Fraction(2, 7)}, seq_length=8),
    ),
)
Corpus = tuple[dict[str, list[Documents]], tuple[Channel, ...]]
Told = tuple[str, int, list[Token]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    texts = {
        name: [random_documents(7, seed=10 * number + part, longest=14) for part in range(NUM_PARTS)]
        for number, name in enumerate(NAMES)
    }
    texts["en"][1] = [np.arange(3), np.arange(4)]  # holds no sample of most phases
    folder = tmp_path_factory.mktemp("corpus")
    return texts, tuple(write_channel(folder / name, parts) for name, parts in texts.items())


def turns_of(channels: Sequence[Channel], recipe: Recipe) -> list[ChannelTurns]:
    return open_turns(channels, recipe, MappedPart)


def told(order: SampleOrder, positions: list[int]) -> list[Told]:
    """Channel, epoch and tokens of samples."""
    located = order.locate(np.array(positions, dtype=np.int64))
    found = []
    for (channel, sample), spans in zip(located.rows(), order.documents_of(located), strict=True):
        tokens = [
            (sample.part, span.document, span.first_token + place) for span in spans for place in range(span.num_tokens)
        ]
        found.append((order.channel_names[channel], sample.epoch, tokens))
    return found


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 9)),
        st.tuples(st.just("phase"), st.integers(0, 3)),
        st.tuples(st.just("adopt"), st.sampled_from(NAMES)),
        st.tuples(
            st.just("quarantine"),
            st.sampled_from(NAMES),
            st.integers(0, NUM_PARTS - 1),
            st.sets(st.integers(0, 6), min_size=1, max_size=3),
            st.booleans(),
        ),
    ),
    max_size=14,
)
RULES = st.dictionaries(
    st.sampled_from(NAMES),
    st.builds(
        ChannelRules,
        when_low=st.sampled_from(["repeat", "wait", "share"]),
        max_epochs=st.sampled_from([None, 1, 2]),
        epoch_decay=st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(9, 10)]),
        order=st.sampled_from(["shuffled", "as_written"]),
        window_parts=st.integers(1, 3),
        packing=st.sampled_from(["concatenate", "best_fit"]),
    ),
)


def act(cursor: Cursor, action: tuple[Any, ...], adopted: dict[str, int], texts: dict[str, list[Documents]]) -> Cursor:
    """The cursor after an action that is not to take samples."""
    kind, *values = action
    if kind == "phase":
        return cursor.begin_phase(values[0])
    name = values[0]
    if kind == "adopt":
        adopted[name] = min(NUM_PARTS, adopted[name] + 1)
        return cursor.adopt({name: (adopted[name], "x")})
    _, part, documents, lift = values
    here = min(part, adopted[name] - 1)
    present = [document for document in documents if document < len(texts[name][here])]
    if not present or (not lift and _would_empty(cursor, name, here, present, texts)):
        return cursor
    tokens = {document: len(texts[name][here][document]) for document in present}
    return cursor.quarantine(name, f"part-{here:05}", tokens, lift=lift)


def _would_empty(cursor: Cursor, name: str, part: int, documents: list[int], texts: dict[str, list[Documents]]) -> bool:
    """Whether too little would be left in the part: a channel without a sample is an error of its own."""
    held = set(quarantined_in(cursor.history).get((name, f"part-{part:05}"), ())) | set(documents)
    left = sum(len(text) for number, text in enumerate(texts[name][part]) if number not in held)
    return part == 0 and left < 20


@settings(max_examples=60, deadline=None)
@given(ACTIONS, RULES)
def test_order_with_a_history_is_the_order_told_plainly(
    corpus: Corpus, actions: list[tuple[Any, ...]], rules: dict[str, ChannelRules]
) -> None:
    texts, channels = corpus
    recipe = replace(RECIPE, rules=rules)
    adopted = dict.fromkeys(NAMES, 1)
    cursor = Cursor().adopt({name: (1, "x") for name in NAMES})
    turns = turns_of(channels, recipe)
    plain = PlainOrder(texts, recipe, adopted)
    went: list[Told] = []
    inputs: list[Told] = []
    for action in [*actions, ("take", 9)]:
        if action[0] != "take":
            changed = act(cursor, action, adopted, texts)
            for change in changed.history[len(cursor.history) :]:
                plain.change(change)
            cursor = changed
            continue
        for _ in range(action[1]):
            order = SampleOrder(turns, recipe, cursor.history)
            positions, behind = cursor.take(BATCH, 1)
            waits = order.lacks_parts_of(positions)
            if waits:
                break
            now = told(order, positions.tolist())
            expected = [plain.draw() for _ in positions]
            assert None not in expected
            drawn = [each for each in expected if each is not None]
            assert now == [(name, epoch, sample.tokens) for name, epoch, sample in drawn]
            went += now
            inputs += [(name, epoch, sample.inputs) for name, epoch, sample in drawn]
            cursor = behind
        else:
            continue
        if not any(later[0] == "adopt" for later in actions):
            break
        return  # the plain order has drawn what the batch could not get: nothing more to compare
    assert_nothing_twice(inputs, cursor)
    assert_ledger_is_right(inputs, SampleOrder(turns, recipe, cursor.history), texts)
    again = SampleOrder(turns_of(channels, recipe), recipe, cursor.history)
    positions = list(range(len(went)))
    assert told(again, positions[::-1]) == went[::-1]  # from nothing, in any order


@settings(max_examples=80, deadline=None)
@given(ACTIONS, RULES, st.lists(st.integers(0, 13), max_size=4))
def test_an_order_that_goes_on_from_another_is_the_order_made_anew(
    corpus: Corpus, actions: list[tuple[Any, ...]], rules: dict[str, ChannelRules], back: list[int]
) -> None:
    texts, channels = corpus
    recipe = replace(RECIPE, rules=rules)
    adopted = dict.fromkeys(NAMES, 1)
    cursor = Cursor().adopt({name: (1, "x") for name in NAMES})
    turns = turns_of(channels, recipe)
    histories = [cursor.history]
    for action in actions:
        if action[0] == "take":
            cursor = cursor.take(BATCH * action[1], 1)[1]
        else:
            cursor = act(cursor, action, adopted, texts)
            histories.append(cursor.history)
    going_on = SampleOrder(turns, recipe, histories[0])
    for history in [*histories, *(histories[number % len(histories)] for number in back)]:
        going_on = going_on.under(history)
        anew = SampleOrder(turns_of(channels, recipe), recipe, history)
        last = cursor.next_position + 30
        for position in (last, last // 2):  # the one that goes on has looked ahead of the next change
            assert outcome(going_on, position) == outcome(anew, position)
        if not (lacking := going_on.lacks_parts_of(np.arange(last))):
            assert going_on.epochs([(0, last)]) == anew.epochs([(0, last)])
            assert list(going_on.cut_ranges(0, last)) == list(anew.cut_ranges(0, last))
        assert lacking == anew.lacks_parts_of(np.arange(last))


def outcome(order: SampleOrder, num_positions: int) -> list[Told] | str:
    """The first samples of an order, or why there are none."""
    try:
        return told(order, list(range(num_positions)))
    except DataError as error:
        return str(error)


def test_what_an_order_holds_does_not_grow_with_the_parts_behind_it(corpus: Corpus) -> None:
    _, channels = corpus
    recipe = replace(RECIPE, shares={"zh": Fraction(1)}, later_phases=())
    turns = turns_of(channels, recipe)
    cursor = Cursor().adopt({"zh": (1, "x")})
    order = SampleOrder(turns, recipe, cursor.history)
    for num_parts in range(2, NUM_PARTS + 1):
        cursor = cursor.take(BATCH, 1)[1].adopt({"zh": (num_parts, "x")})
        before, order = order, order.under(cursor.history)
        order.locate(cursor.take(BATCH, 1)[0])
        assert order._courses[0] is before._courses[0]
        assert order._orders[0]._stretches[0] is before._orders[0]._stretches[0]


def assert_nothing_twice(went: list[Told], cursor: Cursor) -> None:
    """Each token is an input at most once in an epoch, and never while its document is in quarantine."""
    uses = Counter((name, epoch, token) for name, epoch, tokens in went for token in tokens)
    assert not uses or max(uses.values()) == 1
    for number, (name, _, tokens) in enumerate(went):
        passed = [change for change in cursor.history if change.position <= number]
        for part, document, _ in tokens:
            assert document not in quarantined_in(passed).get((name, f"part-{part:05}"), {})


def assert_ledger_is_right(went: list[Told], order: SampleOrder, texts: dict[str, list[Documents]]) -> None:
    """The ledger of what was drawn, but for a window in the middle, is a count of tokens one by one."""
    third = len(went) // 3
    ranges = [(start, stop) for start, stop in ((0, third), (2 * third, len(went))) if start < stop]
    counted = [told for start, stop in ranges for told in went[start:stop]]
    samples = Counter((name, f"part-{tokens[0][0]:05}", epoch) for name, epoch, tokens in counted)
    inputs = Counter((name, token[:2]) for name, _, tokens in counted for token in tokens)
    used_samples, used_tokens = count_parts(order, ranges)
    assert used_samples == samples
    for name, part in {turn[:2] for turn in used_samples}:
        number = int(part[-5:])
        tokens = count_documents(order, ranges, name, part).tolist()
        lengths = order.turns_of(name).lengths_of(number, np.arange(len(tokens)))
        assert lengths.tolist() == [len(text) for text in texts[name][number]]
        assert tokens == [inputs[name, (number, document)] for document in range(len(texts[name][number]))]
        assert sum(tokens) == sum(count for turn, count in used_tokens.items() if turn[:2] == (name, part))


def test_no_token_is_lost_by_cutting_anew(corpus: Corpus) -> None:
    _, channels = corpus
    cursor = Cursor().adopt(dict.fromkeys(NAMES, (2, "x")))
    for phase in (1, 0, 3, 1, 0):
        _, cursor = cursor.take(5, 1)
        cursor = cursor.begin_phase(phase)
    order = SampleOrder(turns_of(channels, RECIPE), RECIPE, cursor.history)
    went = told(order, list(range(400)))
    for part in range(2):
        used = {token for name, epoch, tokens in went if (name, epoch) == ("zh", 0) for token in tokens[:-1]}
        of_part = [token for token in used if token[0] == part]
        assert 0 < channels[0].parts[part].num_tokens - len(of_part) <= 8


@pytest.mark.parametrize("weights", [{"zh": 5, "en": 2}, {"zh": 1, "en": 1, "code": 1}])
def test_shares_are_exact_from_the_beginning_of_each_phase(corpus: Corpus, weights: dict[str, int]) -> None:
    _, channels = corpus
    total = sum(weights.values())
    shares = {name: Fraction(weight, total) for name, weight in weights.items()}
    recipe = replace(RECIPE, later_phases=(PhaseRecipe(shares=shares, seq_length=8),))
    _, cursor = Cursor().take(101, 1)
    order = SampleOrder(turns_of(channels, recipe), recipe, cursor.begin_phase(1).history)
    before = order.drawn(101)
    for count in range(101, 301):
        drawn = dict(zip(order.channel_names, np.subtract(order.drawn(count), before).tolist(), strict=True))
        assert all(abs(drawn[name] - shares[name] * (count - 101)) < 1 for name in shares)


def drawn_by_epoch(order: SampleOrder, num: int) -> Counter[tuple[str, int]]:
    return Counter((name, epoch) for name, epoch, _ in told(order, list(range(num))))


def test_weight_falls_with_every_epoch(corpus: Corpus) -> None:
    _, channels = corpus
    recipe = replace(RECIPE, later_phases=(), rules={"en": ChannelRules(epoch_decay=Fraction(1, 2))})
    order = SampleOrder(turns_of(channels, recipe), recipe, ())
    went = told(order, list(range(900)))
    first_of = {epoch: next(k for k, (name, e, _) in enumerate(went) if (name, e) == ("en", epoch)) for epoch in (1, 2)}
    stretch = went[first_of[1] : first_of[2]]
    share = sum(name == "en" for name, _, _ in stretch) / len(stretch)
    assert share == pytest.approx(1 / 5, abs=1 / len(stretch))  # 1/3 : 2/3 has become 1/6 : 2/3


def test_used_up_channel_leaves_its_share_to_the_others_until_parts_come(corpus: Corpus) -> None:
    _, channels = corpus
    recipe = replace(RECIPE, later_phases=(), rules={"en": ChannelRules(when_low="share", max_epochs=2)})
    turns = turns_of(channels, recipe)
    begun = Cursor().adopt({"zh": (4, "x"), "en": (3, "x")})
    order = SampleOrder(turns, recipe, begun.history)
    by_epoch = drawn_by_epoch(order, 300)
    assert {epoch for name, epoch in by_epoch if name == "en"} == {0, 1}
    assert {name for name, _, _ in told(order, list(range(200, 300)))} == {"zh"}
    _, cursor = begun.take(200, 8)
    later = SampleOrder(turns, recipe, cursor.adopt({"en": (4, "x")}).history)
    came = told(later, list(range(200, 230)))
    assert {tokens[0][0] for name, _, tokens in came if name == "en"} == {3}


def test_channel_that_waits_ends_the_order_until_parts_come(corpus: Corpus) -> None:
    _, channels = corpus
    recipe = replace(RECIPE, later_phases=(), rules={"en": ChannelRules(when_low="wait")})
    turns = turns_of(channels, recipe)
    begun = Cursor().adopt({"zh": (4, "x"), "en": (1, "x")})
    order = SampleOrder(turns, recipe, begun.history)
    end = next(k for k in range(500) if order.lacks_parts_of(np.array([k])))
    assert order.lacks_parts_of(np.array([end])) == ("en",)
    assert drawn_by_epoch(order, end)["en", 0] == (channels[1].parts[0].num_tokens - 1) // 8
    with pytest.raises(DataError, match=rf"no sample can be drawn at position {end} of phase 0: every allowed pass"):
        order.locate(np.array([end]))
    cursor = replace(begun, next_position=end - 2, consumed_samples=end - 2)
    later = SampleOrder(turns, recipe, cursor.adopt({"en": (3, "x")}).history)
    assert not later.lacks_parts_of(np.array([end]))
    assert told(later, list(range(end))) == told(order, list(range(end)))


def test_window_mixes_its_parts_and_no_others(corpus: Corpus) -> None:
    _, channels = corpus
    rules = {"zh": ChannelRules(order="window", window_parts=2)}
    recipe = replace(RECIPE, shares={"zh": Fraction(1)}, later_phases=(), rules=rules)
    order = SampleOrder(turns_of(channels, recipe), recipe, ())
    in_epoch = sum((part.num_tokens - 1) // 8 for part in channels[0].parts)
    first = sum((part.num_tokens - 1) // 8 for part in channels[0].parts[:2])
    parts = [tokens[0][0] for _, _, tokens in told(order, list(range(in_epoch)))]
    assert set(parts[:first]) == {0, 1}
    assert set(parts[first:]) == {2, 3}
    assert parts[:first] != sorted(parts[:first])


def test_as_written_is_the_documents_end_to_end(corpus: Corpus) -> None:
    texts, channels = corpus
    rules = {"zh": ChannelRules(order="as_written")}
    recipe = replace(RECIPE, shares={"zh": Fraction(1)}, later_phases=(), rules=rules)
    order = SampleOrder(turns_of(channels, recipe), recipe, ())
    went = [token for _, _, tokens in told(order, list(range(4))) for token in tokens[:-1]]
    written = [(0, number, place) for number, text in enumerate(texts["zh"][0]) for place in range(len(text))]
    assert went == written[: 4 * 8]


def test_best_fit_splits_only_what_does_not_fit(corpus: Corpus) -> None:
    texts, channels = corpus
    rules = {"zh": ChannelRules(packing="best_fit")}
    recipe = replace(RECIPE, shares={"zh": Fraction(1)}, later_phases=(), rules=rules)
    turns = turns_of(channels, recipe)
    order = SampleOrder(turns, recipe, ())
    num_samples = turns[0].ends(1, 8, {})[0]
    went = [tokens for _, _, tokens in told(order, list(range(num_samples)))]
    assert {tokens[0][0] for tokens in went} == {0}
    lengths = Counter(document for tokens in went for document in {token[1] for token in tokens})
    for number, text in enumerate(texts["zh"][0]):
        assert lengths[number] == 1 if len(text) <= 9 else lengths[number] <= -(-(len(text) - 1) // 8)
    assert {token for tokens in went for token in tokens} == {
        (0, number, place) for number, text in enumerate(texts["zh"][0]) for place in range(len(text))
    }
    located = order.locate(np.arange(num_samples))
    rows = np.full((num_samples, 9), -1, dtype=np.int64)
    counts = order.read(located, out=rows)
    for row, tokens, by_document in zip(rows.tolist(), went, counts, strict=True):
        expected = [texts["zh"][part][document][place] for part, document, place in tokens]
        assert row == expected + [0] * (9 - len(tokens))
        assert sum(by_document) == len(tokens)


def test_history_of_a_part_that_is_gone(corpus: Corpus) -> None:
    _, channels = corpus
    history = Cursor().quarantine("zh", "part-00009", {1: 2}).history
    assert isinstance(history[0], DocumentsQuarantined)
    message = "channel zh: the history of the run names part-00009, which is not among the channel's 4 parts"
    with pytest.raises(DataError, match=message):
        SampleOrder(turns_of(channels, RECIPE), RECIPE, history)
