"""The copy of a state from a device beside training: its plan, and what waits for what."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from late_device import LateDevice

from harness.checkpoint.device_copy import ALIGNMENT_BYTES, DeviceCopy, fits_on_device, places_for
from harness.checkpoint.forked_results import ForkedResults


def tensors(value: float = 1.0) -> list[torch.Tensor]:
    """Two of a kind of model: one is a view, one has no elements, one is a single number."""
    whole = torch.full((6, 4), value)
    return [whole[2:5], torch.full((3,), value, dtype=torch.bfloat16), torch.empty(0, 7), torch.tensor(value)]


@given(st.lists(st.integers(0, 10_000)))
def test_places_are_aligned_and_do_not_overlap(sizes: list[int]) -> None:
    begins, num_bytes = places_for(sizes)
    ends = [begin + size for begin, size in zip(begins, sizes, strict=True)]
    assert all(begin % ALIGNMENT_BYTES == 0 for begin in begins)
    assert all(end <= begin for end, begin in zip(ends, begins[1:], strict=False))
    assert max(ends, default=0) <= num_bytes <= sum(sizes) + ALIGNMENT_BYTES * len(sizes)


def test_half_of_what_is_free_is_left() -> None:
    assert fits_on_device(5, 10)
    assert not fits_on_device(6, 10)


def test_the_copies_are_the_state_at_the_beginning_if_an_update_is_held() -> None:
    copy, state = DeviceCopy(LateDevice()), tensors()
    copies, wait = copy.begin(state)
    assert [float(each.float().sum()) for each in copies] == [0.0] * 4, "a late device has copied nothing yet"
    copy.hold()
    for tensor in state:
        tensor.fill_(3.0)
    wait()
    for found, expected in zip(copies, tensors(), strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(found, expected)
        assert found.untyped_storage().nbytes() == found.nbytes, "torch writes whole storages"


def test_without_it_they_would_not_be() -> None:
    copy, state = DeviceCopy(LateDevice(late_s=0.0)), tensors()
    copies, wait = copy.begin(state)
    for tensor in state:
        tensor.fill_(3.0)
    wait()
    assert float(copies[0][0, 0]) == 3.0


def test_training_is_held_once_for_each_copy() -> None:
    device = LateDevice()
    copy = DeviceCopy(device)
    copy.hold()
    copy.begin(tensors())
    copy.hold()
    copy.hold()
    copy.begin(tensors())
    copy.hold()
    assert [word for word in device.asked if word in ("copy", "hold")] == ["copy", "hold", "copy", "hold"]


def test_memory_is_pinned_once_and_used_again() -> None:
    device = LateDevice(late_s=0.0)
    copy = DeviceCopy(device)
    addresses = []
    for _ in range(3):
        copies, wait = copy.begin(tensors())
        wait()
        addresses.append([each.data_ptr() for each in copies])
    assert addresses[0] == addresses[1] == addresses[2]
    assert [word for word in device.asked if "pin" in word] == [f"pin {mmap.PAGESIZE}"]


def test_memory_that_is_too_small_is_given_back_after_the_copy_into_it() -> None:
    device = LateDevice(late_s=0.0)
    copy = DeviceCopy(device)
    copy.begin(tensors())
    copy.begin([torch.ones(2000)])
    assert device.asked == ["pin 4096", "copy", "wait", "unpin 4096", "pin 8192", "copy"]
    assert len(device.pinned) == 1


def test_where_memory_cannot_be_pinned_the_copy_is_waited_for_and_the_reason_is_told() -> None:
    device = LateDevice(late_s=0.0, refusal="out of memory")
    copy, state = DeviceCopy(device), tensors()
    copies, _ = copy.begin(state)
    for tensor in state:
        tensor.fill_(3.0)
    assert torch.equal(copies[0], tensors()[0])
    assert copy.problem == "0.0 GiB of the host's memory cannot be pinned: out of memory"
    copy.begin([torch.ones(2000)])
    assert not device.pinned
    assert "unpin 4096" not in device.asked


def test_what_the_device_has_no_room_for_is_told() -> None:
    copy = DeviceCopy(LateDevice(free_bytes=3 * 2**30))
    assert copy.leaves_on_device(2**30)
    assert copy.problem is None
    assert not copy.leaves_on_device(2 * 2**30)
    assert copy.problem == "2.0 GiB of optimizer state do not fit into half of the 3.0 GiB that the GPU has left"


def test_a_forked_process_sees_what_is_copied_after_the_fork_and_not_before_it_is_complete() -> None:
    copy, state = DeviceCopy(LateDevice()), tensors()
    copies, wait = copy.begin(state)
    results = ForkedResults()
    process = results.fork(lambda: results.put([float(each.float().sum()) for each in copies], {}), wait)
    assert not results.has_come()
    copy.hold()
    for tensor in state:
        tensor.fill_(3.0)
    results.wait(process)
    assert results.get_nowait() == [12.0, 3.0, 0.0, 1.0]


def test_a_device_that_fails_fails_the_save() -> None:
    results = ForkedResults()

    def wait() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    process = results.fork(lambda: results.put("written", {}), wait)
    results.wait(process)
    error = results.get_nowait()
    assert isinstance(error, OSError)
    assert error.strerror == "the copy of the state from the device failed"


def test_a_fork_that_fails_leaves_no_pipe_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the four ends that Python itself leaves."""

    def fork() -> int:
        raise OSError("no process")

    def left_by(after: Callable[[], None] | None) -> int:
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(OSError, match="no process"):
            ForkedResults().fork(lambda: None, after)
        return len(list(Path("/proc/self/fd").iterdir())) - before

    monkeypatch.setattr(os, "fork", fork)
    num_threads = threading.active_count()
    assert left_by(lambda: None) == left_by(None)
    assert threading.active_count() == num_threads
