"""Which sample is number n of a channel, held against the documents in the files."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from data_parts import VOCAB_SIZE, random_documents, write_channel, write_part

from harness.channels.channels import Channel
from harness.channels.held_out import held_out_of
from harness.channels.parts import Part
from harness.data.files.mcore import MappedPart
from harness.data.order.channel_order import ChannelOrder, Sample
from harness.data.order.packing import OpenPart, PartOpener
from harness.data.order.recipe import Recipe
from harness.data.order.shuffle import permutation, shuffle_key
from harness.data.order.turns import ChannelTurns
from harness.errors import DataError

RECIPE = Recipe(
    seed=1234,
    shares={"zh": Fraction(1)},
    seq_length=16,
    vocab_size=VOCAB_SIZE,
    held_out_share=0.0,
    reset_at_document_borders=False,
)


def order_of(channel: Channel, recipe: Recipe = RECIPE, open_part: PartOpener = MappedPart) -> ChannelOrder:
    return ChannelOrder(ChannelTurns(channel, recipe, open_part), recipe.seq_length)


def all_addresses(order: ChannelOrder, epochs: int = 1) -> list[tuple[int, int, int]]:
    found = order.locate(np.arange(epochs * order.last.num_samples))
    return list(zip(found.epochs.tolist(), found.parts.tolist(), found.indices.tolist(), strict=True))


@pytest.mark.parametrize("held_out_share", [0.0, 0.2])
def test_sample_is_the_documents_of_the_file_end_to_end(tmp_path: Path, held_out_share: float) -> None:
    texts = [random_documents(30, seed) for seed in range(2)]
    order = order_of(write_channel(tmp_path / "zh", texts), replace(RECIPE, held_out_share=held_out_share))
    for epoch, part, index in all_addresses(order, epochs=2):
        kept = 24 if held_out_share and part == 0 else 30
        shuffled = permutation(kept, shuffle_key("documents", 1234, "zh", f"part-{part:05}", epoch))
        laid_out = np.concatenate([texts[part][document] for document in shuffled.tolist()])
        expected = laid_out[index * 16 : index * 16 + 17]
        tokens = np.empty(17, dtype=np.int64)
        counts = order.read(Sample(0, part, epoch, index), tokens)
        assert tokens.tolist() == expected.tolist()
        spans = order.documents_of(Sample(0, part, epoch, index))
        assert counts == [span.num_tokens for span in spans]
        pieces = [texts[part][s.document][s.first_token : s.first_token + s.num_tokens] for s in spans]
        assert np.concatenate(pieces).tolist() == expected.tolist()


def test_every_sample_of_an_epoch_exactly_once_and_parts_in_order(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [random_documents(30, seed) for seed in range(3)])
    order = order_of(channel, RECIPE)
    addresses = all_addresses(order, epochs=2)
    expected = [
        (epoch, number, index)
        for epoch in range(2)
        for number, part in enumerate(channel.parts)
        for index in range((part.num_tokens - 1) // 16)
    ]
    assert sorted(addresses) == expected
    assert [address[:2] for address in addresses] == [address[:2] for address in expected]
    half = order.last.num_samples
    assert addresses != expected
    assert [address[1:] for address in addresses[:half]] != [address[1:] for address in addresses[half:]]


def test_one_by_one_is_the_same_as_all_at_once_in_any_order(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [random_documents(9, seed) for seed in range(3)])
    positions = np.random.default_rng(0).permutation(2 * order_of(channel, RECIPE).last.num_samples)
    together = order_of(channel, RECIPE).locate(positions)
    order = order_of(channel, RECIPE)
    for place, position in enumerate(positions.tolist()):
        alone = order.locate(np.array([position]))
        assert alone.indices[0] == together.indices[place]
        assert alone.parts[0] == together.parts[place]


def test_seed_and_names_make_the_order_and_the_folder_does_not(tmp_path: Path) -> None:
    texts = [random_documents(30)]
    here = write_channel(tmp_path / "zh", texts)
    elsewhere = write_channel(tmp_path / "moved" / "zh", texts)
    other = replace(here, name="en")
    order = all_addresses(order_of(here, RECIPE))
    assert all_addresses(order_of(elsewhere, RECIPE)) == order
    assert all_addresses(order_of(other, RECIPE)) != order
    assert all_addresses(order_of(here, replace(RECIPE, seed=1))) != order


def test_later_parts_move_no_sample_of_the_first_epoch(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [random_documents(30, seed) for seed in range(3)])
    before = order_of(replace(channel, parts=channel.parts[:2]), RECIPE)
    after = order_of(channel, RECIPE)
    assert all_addresses(after)[: before.last.num_samples] == all_addresses(before)


def test_parts_are_opened_when_their_turn_comes(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [random_documents(30, seed) for seed in range(4)])
    opened: list[str] = []

    def open_part(part: Part, vocab_size: int) -> OpenPart:
        opened.append(part.name)
        return MappedPart(part, vocab_size)

    order = order_of(channel, RECIPE, open_part)
    assert opened == []
    order.locate(np.arange(3))
    assert opened == ["part-00000"]
    for position in range(2 * order.last.num_samples):
        found = order.locate(np.array([position]))
        order.documents_of(Sample(position, int(found.parts[0]), int(found.epochs[0]), int(found.indices[0])))
    assert opened == [f"part-{number:05}" for _ in range(2) for number in range(4)]
    order_of(channel, replace(RECIPE, held_out_share=0.01), open_part)
    assert opened[-1] == "part-00000"


def test_held_out_documents_are_never_trained_on(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [random_documents(30), random_documents(30, 1)])
    order = order_of(channel, replace(RECIPE, held_out_share=0.1))
    seen = {
        span.document
        for epoch, part, index in all_addresses(order, epochs=3)
        if part == 0
        for span in order.documents_of(Sample(0, part, epoch, index))
    }
    assert seen == set(range(27))


@pytest.mark.parametrize(
    ("share", "documents", "held_out"), [(0.0, 100, 0), (0.01, 100, 1), (0.07, 100, 7), (0.011, 100, 2), (0.01, 1, 1)]
)
def test_number_of_held_out_documents(share: float, documents: int, held_out: int) -> None:
    part = Part(prefix=Path("p"), name="p", num_tokens=1, num_documents=documents, bin_bytes=2, xxh3=None)
    found = held_out_of(part, share, "documents", lambda first, behind: [1] * (behind - first))
    assert found == (held_out, held_out)


@pytest.mark.parametrize(
    ("share", "lengths", "held_out"),
    [
        (0.1, [10] * 100, 10),
        (0.1, [1] * 50 + [50], 1),
        (0.1, [30, 30, 30, 10], 1),
        (0.1, [30, 30, 30, 9, 1], 2),
        (0.1, [90, 5, 0, 0, 5, 0], 5),
        (0.1, [97, 1, 0, 1, 1], 4),
        (0.001, [100, 0, 0], 3),
        (0.5, [1] * 5000, 2500),
        (0.0, [10] * 100, 0),
    ],
)
def test_tokens_that_are_held_out_are_at_most_the_share_or_one_document(
    share: float, lengths: list[int], held_out: int
) -> None:
    part = Part(prefix=Path("p"), name="p", num_tokens=sum(lengths), num_documents=len(lengths), bin_bytes=2, xxh3=None)
    found = held_out_of(part, share, "tokens", lambda first, behind: lengths[first:behind])
    assert found == (held_out, sum(lengths[len(lengths) - held_out :]))


@pytest.mark.parametrize(("num_tokens", "num_samples"), [(17, 1), (32, 1), (33, 2), (34, 2)])
def test_number_of_samples_of_a_part(tmp_path: Path, num_tokens: int, num_samples: int) -> None:
    channel = write_channel(tmp_path / "zh", [[np.arange(10)], [np.arange(num_tokens)], []])
    order = order_of(channel, RECIPE)
    assert order.last.num_samples == num_samples
    assert order.locate(np.arange(num_samples)).parts.tolist() == [1] * num_samples


def test_part_smaller_than_a_sample(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [[np.arange(16)], [np.arange(12)]])
    message = r"channel zh: no part holds one sample of 17 tokens \(`seq_length` \+ 1\); the largest has 16 tokens"
    with pytest.raises(DataError, match=message):
        order_of(channel, RECIPE)


def test_everything_held_out(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [[np.arange(40)]])
    with pytest.raises(
        DataError, match="largest has 0 tokens to train on, 1 documents are held out. Add data, or lower"
    ):
        order_of(channel, replace(RECIPE, held_out_share=0.01))


@pytest.mark.parametrize(("bin_bytes", "vocab_size"), [(100, 257), (201, 300), (200, 65537)])
def test_late_part_of_another_token_type_is_refused_at_once(tmp_path: Path, bin_bytes: int, vocab_size: int) -> None:
    channel = write_channel(tmp_path / "zh", [random_documents(30)])
    late = replace(channel.parts[0], num_tokens=100, bin_bytes=bin_bytes, prefix=tmp_path / "part-00009")
    message = (
        rf"part-00009.bin has {bin_bytes} bytes for 100 tokens: no whole number for each, or too few for the "
        rf"{vocab_size} ids of the vocabulary"
    )
    wide = replace(channel.parts[0], bin_bytes=8 * channel.parts[0].num_tokens)
    with pytest.raises(DataError, match=f"channel zh: .*{message}"):
        order_of(replace(channel, parts=(wide, late)), replace(RECIPE, vocab_size=vocab_size))


def test_damage_of_a_part_is_told_at_its_turn_with_the_channel(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [random_documents(30, seed) for seed in range(2)])
    channel.parts[1].idx_path.write_bytes(b"broken")
    order = order_of(channel, RECIPE)
    first = int(order.locate(np.array([0])).parts[0])
    assert first == 0
    with pytest.raises(DataError, match="channel zh: .*part-00001.idx is truncated: found 6 bytes"):
        order.locate(np.array([order.last.num_samples - 1]))


@pytest.mark.parametrize(("dtype", "foreign"), [(np.uint16, VOCAB_SIZE), (np.int32, -1), (np.int32, 2**31 - 1)])
def test_token_beyond_the_vocabulary(tmp_path: Path, dtype: type, foreign: int) -> None:
    documents = [np.arange(10), np.array([1, 2, 3, foreign, 5, 6, 7, 8, 9])]
    channel = Channel(name="zh", parts=(write_part(tmp_path / "part-00000", documents, dtype),))
    order = order_of(channel, RECIPE)
    message = (
        rf"channel zh: token 3 of document 1 in .*part-00000.bin has id {foreign}; the vocabulary has ids 0 … 999 "
        r"\(`model.vocab_size`\). The data was made with another tokenizer, or is damaged"
    )
    with pytest.raises(DataError, match=message):
        order.read(Sample(0, 0, 0, 0), np.empty(17, dtype=np.int64))
