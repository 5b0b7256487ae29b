"""The order of the data told a second time: sample by sample, token by token, with lists and no arithmetic.

It shares only the shuffles and the table of the blend with the order that is tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from data_parts import Documents

from harness.data.order.blend_table import Blend, make_blend
from harness.data.order.recipe import ChannelRules, Recipe, current_shares, rules_of
from harness.data.order.shuffle import permutation, shuffle_key
from harness.run.order_changes import Change, DocumentsQuarantined, PartsAdopted, PhaseBegun

Token = tuple[int, int, int]
"""(part, document, place in the document)."""


class PlainSample(NamedTuple):
    tokens: list[Token]
    """With the last label."""
    inputs: list[Token]


@dataclass
class PlainPart:
    """A part in its turn."""

    number: int
    row: list[Token]
    used: set[Token] = field(default_factory=set)
    samples: list[PlainSample] = field(default_factory=list)


@dataclass
class PlainChannel:
    name: str
    parts: Sequence[Documents]
    num_parts: int
    seq_length: int
    rules: ChannelRules
    held: dict[int, set[int]] = field(default_factory=dict)
    epoch: int = 0
    next_part: int = 0
    turn: list[PlainPart] = field(default_factory=list)
    num_cuts: int = 0
    waiting: list[PlainPart] = field(default_factory=list)
    """The part of each sample that is left of the turn."""

    def next_epoch(self) -> int:
        """The epoch of the next sample."""
        if self.waiting or any(self._holds_a_sample(part) for part in range(self.next_part, self.num_parts)):
            return self.epoch
        return self.epoch + 1

    def draw(self, seed: int) -> tuple[int, PlainSample]:
        while not self.waiting:
            if self.next_part == self.num_parts:
                self.epoch, self.next_part = self.epoch + 1, 0
            first, self.next_part = self.next_part, min(self.next_part + self.rules.window_parts, self.num_parts)
            if any(self._holds_a_sample(part) for part in range(first, self.next_part)):
                self.turn = [PlainPart(part, self._row(part, seed)) for part in range(first, self.next_part)]
                self.num_cuts = 0
                self._cut(seed)
        part = self.waiting.pop(0)
        sample = part.samples.pop(0)
        part.used.update(sample.inputs)
        return self.epoch, sample

    def change(self, seq_length: int, held: dict[int, set[int]], num_parts: int, seed: int) -> None:
        before = [(self.seq_length, self.held.get(part.number, set())) for part in self.turn]
        self.num_parts, self.seq_length, self.held = num_parts, seq_length, held
        if before != [(seq_length, held.get(part.number, set())) for part in self.turn]:
            self.num_cuts += 1
            self._cut(seed)

    def _holds_a_sample(self, part: int) -> bool:
        documents = enumerate(self.parts[part])
        tokens = sum(len(text) for number, text in documents if number not in self.held.get(part, ()))
        return tokens > (0 if self.rules.packing == "best_fit" else self.seq_length)

    def _row(self, part: int, seed: int) -> list[Token]:
        documents = self.parts[part]
        order = self._shuffled(len(documents), "documents", seed, self.name, f"part-{part:05}", self.epoch)
        return [(part, number, place) for number in order for place in range(len(documents[number]))]

    def _cut(self, seed: int) -> None:
        again = (self.num_cuts,) if self.num_cuts else ()
        for part in self.turn:
            held = self.held.get(part.number, set())
            free = [token for token in part.row if token not in part.used and token[1] not in held]
            samples = self._best_fit(free) if self.rules.packing == "best_fit" else self._end_to_end(free)
            names = (seed, self.name, f"part-{part.number:05}", self.epoch, *again)
            part.samples = [samples[index] for index in self._shuffled(len(samples), "samples", *names)]
        self.waiting = [part for part in self.turn for _ in part.samples]
        if len(self.turn) > 1:
            named = [f"part-{part.number:05}" for part in self.turn]
            key = shuffle_key("window", seed, self.name, self.epoch, self.num_cuts, *named)
            self.waiting = [self.waiting[index] for index in permutation(len(self.waiting), key).tolist()]

    def _end_to_end(self, free: list[Token]) -> list[PlainSample]:
        length = self.seq_length
        starts = range(0, len(free) - length, length)
        return [PlainSample(free[start : start + length + 1], free[start : start + length]) for start in starts]

    def _best_fit(self, free: list[Token]) -> list[PlainSample]:
        pieces: list[list[Token]] = []
        for token in free:  # a piece is a stretch of one document without a gap
            follows = pieces and pieces[-1][-1][:2] == token[:2] and pieces[-1][-1][2] + 1 == token[2]
            if follows and len(pieces[-1]) <= self.seq_length:
                pieces[-1].append(token)
            else:
                pieces.append([pieces[-1][-1], token] if follows else [token])
        bins: list[list[int]] = []
        touched: list[int] = []
        for time, number in enumerate(sorted(range(len(pieces)), key=lambda number: (-len(pieces[number]), number))):
            rooms = [self.seq_length + 1 - sum(len(pieces[each]) for each in inside) for inside in bins]
            fitting = [place for place, room in enumerate(rooms) if room >= len(pieces[number])]
            if fitting:
                chosen = min(fitting, key=lambda place: (rooms[place], -touched[place]))
            else:
                chosen = len(bins)
                bins.append([])
                touched.append(0)
            bins[chosen].append(number)
            touched[chosen] = time
        nexts = [*(piece[0] for piece in pieces[1:]), None][: len(pieces)]
        inputs = [piece[:-1] if piece[-1] == after else piece for piece, after in zip(pieces, nexts, strict=True)]
        return [
            PlainSample(
                [token for number in sorted(inside) for token in pieces[number]],
                [token for number in sorted(inside) for token in inputs[number]],
            )
            for inside in bins
        ]

    def _shuffled(self, num: int, *names: str | int) -> list[int]:
        numbers: list[int] = permutation(num, shuffle_key(*names)).tolist()
        return sorted(numbers) if self.rules.order == "as_written" else numbers


class PlainOrder:
    """Draws one sample after the other."""

    def __init__(self, texts: Mapping[str, Sequence[Documents]], recipe: Recipe, num_parts: Mapping[str, int]) -> None:
        self._recipe = recipe
        self._channels = {
            name: PlainChannel(
                name=name,
                parts=texts[name],
                num_parts=num_parts[name],
                rules=rules_of(name, recipe.rules),
                seq_length=next(phase.seq_length for phase in recipe.phases if name in phase.shares),
            )
            for name in recipe.channel_names
        }
        self._phase = 0
        self._blend: Blend | None = None
        self._waiting: list[Change] = []
        self._slot = 0
        self._shares: dict[str, Fraction] = {}
        self._epochs: dict[str, int] = {}

    def change(self, change: Change) -> None:
        """Enter a change before the next sample. Those before one sample take effect together."""
        self._waiting.append(change)

    def _apply(self) -> None:
        changes, self._waiting = self._waiting, []
        self._phase = next((each.phase for each in reversed(changes) if isinstance(each, PhaseBegun)), self._phase)
        phase = self._recipe.phases[self._phase]
        for name, channel in self._channels.items():
            held = {part: set(documents) for part, documents in channel.held.items()}
            num_parts = channel.num_parts
            for change in changes:
                if isinstance(change, PartsAdopted) and change.channel == name:
                    num_parts = change.num_parts
                if isinstance(change, DocumentsQuarantined) and change.channel == name:
                    documents = held.setdefault(int(change.part[-5:]), set())
                    (documents.difference_update if change.is_lifted else documents.update)(change.documents)
            length = phase.seq_length if name in phase.shares else channel.seq_length
            channel.change(length, held, num_parts, self._recipe.seed)
        if any(isinstance(change, PhaseBegun) for change in changes) or self._current_shares() != self._shares:
            self._blend = None

    def draw(self) -> tuple[str, int, PlainSample] | None:
        """The next sample: channel, epoch, what it is made of; None if there is none."""
        if self._waiting:
            self._apply()
        if self._blend is None and not self._begin_blend():
            return None
        assert self._blend is not None
        name = self._blend.names[self._blend.channel_by_slot[self._slot % self._blend.period]]
        channel = self._channels[name]
        rules = self._recipe.rules.get(name)
        begins_epoch = channel.next_epoch() > self._epochs[name]
        if rules is not None and begins_epoch and (rules.epoch_decay != 1 or channel.next_epoch() == rules.last_epoch):
            if self._current_shares() != self._shares:
                self._blend = None
                return self.draw()
            self._epochs = self._next_epochs()  # channels whose weights fell alike: the table goes on
        self._slot += 1
        return name, *channel.draw(self._recipe.seed)

    def _begin_blend(self) -> bool:
        current = self._current_shares()
        if not current:
            return False
        self._epochs = self._next_epochs()
        self._blend, self._slot, self._shares = make_blend(current), 0, current
        return True

    def _current_shares(self) -> dict[str, Fraction]:
        """None where a channel must be waited for."""
        shares = self._recipe.phases[self._phase].shares
        current = current_shares(shares, self._next_epochs(), self._recipe.rules)
        used_up = [name for name in shares if name not in current]
        return {} if any(self._recipe.rules[name].when_low == "wait" for name in used_up) else current

    def _next_epochs(self) -> dict[str, int]:
        return {name: channel.next_epoch() for name, channel in self._channels.items()}
