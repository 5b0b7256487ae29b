from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from data_parts import VOCAB_SIZE, random_documents, three_channels, write_channel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.channels.channels import Channel
from harness.data.order.cursor import Cursor
from harness.data.order.recipe import Recipe
from harness.data.stream import BatchShape, StepData, TrainingStream
from harness.errors import DataError

RECIPE = Recipe(
    seed=7,
    shares={"zh": Fraction(1, 2), "en": Fraction(1, 3), "code": Fraction(1, 6)},
    seq_length=16,
    vocab_size=VOCAB_SIZE,
    held_out_share=0.05,
    reset_at_document_borders=True,
)
WHOLE = BatchShape(global_batch_size=12, micro_batch_size=12, dp_rank=0, dp_size=1)


@pytest.fixture(scope="module")
def lasting_channels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Channel, ...]:
    return three_channels(tmp_path_factory.mktemp("channels"))


def run(
    channels: tuple[Channel, ...], shape: BatchShape, cursor: Cursor, num_steps: int, recipe: Recipe = RECIPE
) -> list[StepData]:
    steps = []
    with closing(TrainingStream(channels, recipe, shape)) as stream:
        for _ in range(num_steps):
            steps.append(stream.step(cursor))
            cursor = steps[-1].next_cursor
    return steps


@pytest.mark.parametrize(("dp_size", "micro_batch_size"), [(1, 1), (1, 4), (2, 1), (2, 3), (3, 2), (12, 1)])
def test_layout_changes_neither_samples_nor_hash(
    channels: tuple[Channel, ...], dp_size: int, micro_batch_size: int
) -> None:
    expected = run(channels, WHOLE, Cursor(), num_steps=5)
    by_rank = [
        run(
            channels,
            replace(WHOLE, micro_batch_size=micro_batch_size, dp_size=dp_size, dp_rank=rank),
            Cursor(),
            num_steps=5,
        )
        for rank in range(dp_size)
    ]
    for number, whole in enumerate(expected):
        cut = [steps[number] for steps in by_rank]
        assert {step.batch_hash for step in cut} == {whole.batch_hash}
        num_microbatches = len(cut[0].micro_batches)
        in_order = [step.micro_batches[m] for m in range(num_microbatches) for step in cut]
        expected_batch = whole.micro_batches[0]
        for field in vars(expected_batch).keys() - {"document_starts", "places_BS"}:
            together = torch.cat([getattr(batch, field) for batch in in_order])
            assert torch.equal(together, getattr(expected_batch, field)), field
        begun = [batch.document_starts[:-1] + place * batch.tokens_BS.numel() for place, batch in enumerate(in_order)]
        assert torch.equal(torch.cat(begun), expected_batch.document_starts[:-1])


def test_hashes_of_steps_differ(channels: tuple[Channel, ...]) -> None:
    steps = run(channels, WHOLE, Cursor(), num_steps=40)
    assert len({step.batch_hash for step in steps}) == 40
    other_seed = run(channels, WHOLE, Cursor(), num_steps=1, recipe=replace(RECIPE, seed=8))
    assert other_seed[0].batch_hash != steps[0].batch_hash


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 30)), max_size=3),
    st.integers(0, 5),
)
def test_resuming_anywhere_equals_going_straight_through(
    lasting_channels: tuple[Channel, ...], windows: list[tuple[int, int]], stop: int
) -> None:
    begin = Cursor(skip_windows=tuple((start, start + length) for start, length in windows))
    straight = run(lasting_channels, WHOLE, begin, num_steps=6)
    first = run(lasting_channels, WHOLE, begin, num_steps=stop)
    cursor = Cursor.from_json((first[-1].next_cursor if first else begin).to_json())
    resumed = [*first, *run(lasting_channels, WHOLE, cursor, num_steps=6 - stop)]
    assert [step.batch_hash for step in resumed] == [step.batch_hash for step in straight]
    for one, other in zip(straight, resumed, strict=True):
        assert one.positions.tolist() == other.positions.tolist()
        assert torch.equal(one.micro_batches[0].tokens_BS, other.micro_batches[0].tokens_BS)


def test_rollback_drops_what_was_prepared(channels: tuple[Channel, ...]) -> None:
    straight = run(channels, WHOLE, Cursor(), num_steps=3)
    with closing(TrainingStream(channels, RECIPE, WHOLE)) as stream:
        stream.step(Cursor())
        back = stream.step(Cursor().with_skip_window(0, 12))
        assert back.positions.tolist() == straight[1].positions.tolist()
        assert back.batch_hash == straight[1].batch_hash
        assert stream.step(Cursor()).batch_hash == straight[0].batch_hash


def test_peek_is_the_hash_of_the_next_step(channels: tuple[Channel, ...]) -> None:
    with closing(TrainingStream(channels, RECIPE, WHOLE, num_prefetch_batches=0)) as stream:
        cursor = Cursor(skip_windows=((3, 9),))
        for _ in range(3):
            peeked = stream.peek_hash(cursor)
            step = stream.step(cursor)
            assert peeked == step.batch_hash
            cursor = step.next_cursor


def test_evidence_of_a_step(channels: tuple[Channel, ...]) -> None:
    with closing(TrainingStream(channels, RECIPE, WHOLE)) as stream:
        step = stream.step(Cursor())
        addresses = stream.addresses(Cursor(), step.positions)
        names = [RECIPE.channel_names[channel] for channel in step.micro_batches[0].channel_ids_B.tolist()]
        assert [address.channel for address in addresses] == names
        assert {address.part for address in addresses} == {"part-00000"}
        starts = step.micro_batches[0].document_starts
        assert starts is not None
        found = set(starts.tolist())
        order = stream.order(Cursor())
        for row, spans in enumerate(order.documents_of(order.locate(step.positions))):
            assert sum(span.num_tokens for span in spans) == 17
            ends = itertools.accumulate(span.num_tokens for span in spans)
            expected = {16 * row + place for place in (0, *ends) if place < 16}
            assert {start for start in found if row * 16 <= start < (row + 1) * 16} == expected


def test_epochs_count_samples_of_a_channel(channels: tuple[Channel, ...]) -> None:
    with closing(TrainingStream(channels, replace(RECIPE, held_out_share=0.0), WHOLE)) as stream:
        samples = {c.name: sum((part.num_tokens - 1) // 16 for part in c.parts) for c in channels}
        _, cursor = Cursor().take(6000, 16)
        epochs = stream.epochs(cursor)
        assert epochs == {"zh": 3000 / samples["zh"], "en": 2000 / samples["en"], "code": 1000 / samples["code"]}


def test_middle_stage_has_the_hash_and_no_tensors(channels: tuple[Channel, ...]) -> None:
    plain = replace(RECIPE, reset_at_document_borders=False)
    middle = replace(WHOLE, reads_tokens=False)
    whole = run(channels, WHOLE, Cursor(), num_steps=2, recipe=plain)
    without = run(channels, middle, Cursor(), num_steps=2, recipe=plain)
    assert [step.micro_batches for step in without] == [(), ()]
    assert [step.batch_hash for step in without] == [step.batch_hash for step in whole]
    assert len(run(channels, middle, Cursor(), num_steps=1)[0].micro_batches) == 1  # borders are needed everywhere


def test_order_of_the_channels_numbers_them_and_no_more(channels: tuple[Channel, ...]) -> None:
    turned = replace(RECIPE, shares=dict(reversed(RECIPE.shares.items())))
    one = run(channels, WHOLE, Cursor(), num_steps=2)[1]
    other = run(tuple(reversed(channels)), WHOLE, Cursor(), num_steps=2, recipe=turned)[1]
    assert one.batch_hash == other.batch_hash
    assert torch.equal(one.micro_batches[0].tokens_BS, other.micro_batches[0].tokens_BS)
    assert torch.equal(one.micro_batches[0].channel_ids_B, 2 - other.micro_batches[0].channel_ids_B)


def test_golden_step(tmp_path: Path) -> None:
    """Pinned for ever: a change would give every run in the world other batches."""
    step = run(three_channels(tmp_path), WHOLE, Cursor(next_position=300, consumed_samples=300), num_steps=1)[0]
    assert step.batch_hash == 17569234255876982839
    assert step.micro_batches[0].tokens_BS[:3, :4].tolist() == [
        [967, 243, 348, 586],
        [236, 89, 353, 293],
        [499, 787, 251, 666],
    ]


def test_unknown_channel_in_the_blend(channels: tuple[Channel, ...]) -> None:
    with pytest.raises(
        DataError, match="the blend uses channel code, which is not open; open channels: zh, en. List it"
    ):
        TrainingStream(channels[:2], RECIPE, WHOLE)


def test_error_while_preparing_ahead_comes_at_its_step(tmp_path: Path) -> None:
    documents = [[np.arange(17)], [np.full(17, VOCAB_SIZE)]]
    channel = write_channel(tmp_path / "zh", documents)
    recipe = replace(RECIPE, shares={"zh": Fraction(1)}, held_out_share=0.0)
    shape = BatchShape(global_batch_size=1, micro_batch_size=1, dp_rank=0, dp_size=1)
    with closing(TrainingStream((channel,), recipe, shape)) as stream:
        step = stream.step(Cursor())
        assert step.micro_batches[0].tokens_BS.tolist() == [list(range(16))]
        with pytest.raises(DataError, match="channel zh: token 0 of document 0 in .*part-00001.bin has id 1000"):
            stream.step(step.next_cursor)


def test_a_thousand_parts_open_only_the_first(tmp_path: Path) -> None:
    channel = write_channel(tmp_path / "zh", [random_documents(30)])
    linked = []
    for number in range(1000):
        part = replace(channel.parts[0], name=f"link-{number}", prefix=tmp_path / "zh" / f"link-{number}")
        part.bin_path.hardlink_to(channel.parts[0].bin_path)
        part.idx_path.write_bytes(b"never read")
        linked.append(part)
    large = replace(channel, parts=(*channel.parts, *linked))
    recipe = replace(RECIPE, shares={"zh": Fraction(1)})
    with closing(TrainingStream((large,), recipe, WHOLE, num_prefetch_batches=0)) as stream:
        step = stream.step(Cursor())
        assert {address.part for address in stream.addresses(Cursor(), step.positions)} == {"part-00000"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_batches(channels: tuple[Channel, ...]) -> None:
    batch = run(channels, replace(WHOLE, pin_memory=True), Cursor(), num_steps=2)[1].micro_batches[0]
    assert all(tensor.is_pinned() for tensor in vars(batch).values() if tensor is not None)
    moved = batch.to(torch.device("cuda"))
    assert torch.equal(moved.tokens_BS.cpu(), batch.tokens_BS)
