"""The time of a start or a save, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator

from harness.train.components.stages import Stages


def test_each_stage_has_its_seconds_and_together_they_are_the_whole() -> None:
    times: Iterator[float] = iter([10.0, 11.5, 14.0, 14.25, 20.0, 20.0])
    stages = Stages("begin", clock=lambda: next(times))
    stages.enter("write")
    stages.enter("publish")
    stages.enter("write")
    assert stages.seconds == {"begin": 1.5, "write": 2.5 + 5.75, "publish": 0.25}
    assert stages.total_s == 10.0
