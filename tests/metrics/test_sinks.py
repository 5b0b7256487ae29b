"""Whatever a place for metrics does, training goes on and the other places get their lines."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metric_samples import record

from harness.config.schema import LoggingConfig
from harness.errors import RunInUseError
from harness.metrics import sinks
from harness.metrics.recorder import Recorder
from harness.metrics.sinks import Outlets, SinkContext, SinkKind
from harness.run.paths import RunDir
from harness.run.records import StepRecord, read_records


@dataclass
class Calls:
    """A sink that writes down its calls, and raises in those that it should."""

    raises: dict[str, BaseException] = field(default_factory=dict)
    calls: list[object] = field(default_factory=list)
    name: str = "Elsewhere"

    def step(self, record: StepRecord, *, is_repeated: bool) -> None:
        self._call("step", record.step, is_repeated)

    def rewind(self, step: int) -> None:
        self._call("rewind", step)

    def close(self) -> None:
        self._call("close")

    def _call(self, method: str, *arguments: object) -> None:
        self.calls.append((method, *arguments))
        if method in self.raises:
            raise self.raises[method]


def recorder(
    root: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, sink: Calls, outlets: Outlets | None = None
) -> Recorder:
    """With the sink before all others."""
    kind = SinkKind(what="lines elsewhere", is_wanted=lambda logging: True, open=lambda context: sink)
    monkeypatch.setattr(sinks, "SINKS", (kind, *sinks.SINKS))
    return Recorder(
        RunDir(root),
        LoggingConfig(tensorboard=False, console_every_steps=1000),
        train_steps=1000,
        channels=("zh",),
        resume_step=0,
        outlets=outlets or Outlets(stream=stream, clock=lambda: 1000.0),
    )


def test_a_sink_gets_every_step_what_is_repeated_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Calls()
    writes = recorder(tmp_path, io.StringIO(), monkeypatch, sink)
    writes.step(record(1))
    writes.repeat([])
    writes.repeat([record(1), record(2)])
    writes.close()
    assert sink.calls == [
        ("step", 1, False),
        ("rewind", 1),
        ("step", 1, True),
        ("step", 2, True),
        ("close",),
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("not logged in"), "RuntimeError: not logged in"),
        (KeyError("run"), "KeyError: 'run'"),
        (RunInUseError("not mine"), "RunInUseError: not mine"),
    ],
)
def test_what_a_sink_raises_is_one_warning_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    stream = io.StringIO()
    sink = Calls(raises=dict.fromkeys(("step", "rewind", "close"), error))
    writes = recorder(tmp_path, stream, monkeypatch, sink)
    writes.repeat([record(1)])
    for step in range(2, 90):
        writes.step(record(step))
    writes.close()
    assert stream.getvalue() == f"warning: cannot write Elsewhere: {reason}; training goes on\n"
    assert len(sink.calls) == 91
    assert [read.step for read in read_records(tmp_path / "metrics.jsonl")] == list(range(1, 90))


def test_a_sink_that_goes_on_failing_is_named_again_every_hundred_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    sink = Calls(raises={"step": RuntimeError("away")})
    writes = recorder(tmp_path, stream, monkeypatch, sink)
    for step in range(1, 251):
        writes.step(record(step))
    sink.raises.clear()
    writes.step(record(251))
    writes.close()
    assert stream.getvalue().splitlines() == [
        *["warning: cannot write Elsewhere: RuntimeError: away; training goes on"] * 3,
        "Elsewhere is written again, after 250 failures",
    ]


def test_a_rewind_that_works_does_not_say_that_steps_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    writes = recorder(tmp_path, stream, monkeypatch, Calls(raises=dict.fromkeys(("step", "close"), ValueError("x"))))
    writes.step(record(1))
    writes.repeat([record(1)])
    writes.close()
    assert stream.getvalue() == "warning: cannot write Elsewhere: ValueError: x; training goes on\n"


def test_a_run_that_was_taken_over_ends_before_any_sink_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise RunInUseError("another process trains here")

    sink = Calls()
    writes = recorder(tmp_path, io.StringIO(), monkeypatch, sink, Outlets(stream=io.StringIO(), require_owner=refuse))
    with pytest.raises(RunInUseError, match="another process trains here"):
        writes.step(record(1))
    writes.close()
    assert sink.calls == [("close",)]
    assert not (tmp_path / "metrics.jsonl").exists()


def test_an_interrupt_is_no_failure_of_a_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Calls(raises={"step": KeyboardInterrupt()})
    writes = recorder(tmp_path, io.StringIO(), monkeypatch, sink)
    with pytest.raises(KeyboardInterrupt):
        writes.step(record(1))
    writes.close()


def test_a_console_that_fails_in_any_way_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str, /) -> int:
            raise RuntimeError("gone")

    writes = recorder(tmp_path, Gone(), monkeypatch, Calls())
    writes.step(record(1000))
    writes.message("read me")
    writes.close()
    assert [read.step for read in read_records(tmp_path / "metrics.jsonl")] == [1000]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("no such project"), "warning: no lines elsewhere: RuntimeError: no such project"),
        (
            ModuleNotFoundError("No module named 'wandb'", name="wandb.sdk"),
            "warning: no lines elsewhere, the package `wandb` is not installed",
        ),
    ],
)
def test_a_sink_that_does_not_open_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fail(context: SinkContext) -> sinks.Sink:
        raise error

    stream = io.StringIO()
    kind = SinkKind(what="lines elsewhere", is_wanted=lambda logging: True, open=fail)
    monkeypatch.setattr(sinks, "SINKS", (kind,))
    writes = recorder(tmp_path, stream, monkeypatch, Calls())
    writes.step(record(1))
    writes.close()
    assert stream.getvalue() == line + "\n"


class MuteError(Exception):
    """Cannot be put in words."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MuteError(), "MuteError"),
        (MemoryError(), "MemoryError"),
        (SystemExit(3), "SystemExit: 3"),
        (BaseExceptionGroup("both", [ValueError(), SystemExit()]), "BaseExceptionGroup: both (2 sub-exceptions)"),
        (ValueError("two\nlines \x1b[31m"), "ValueError: two lines [31m"),
    ],
)
@pytest.mark.parametrize("method", ["step", "rewind", "close"])
def test_no_kind_of_error_ends_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException, reason: str
) -> None:
    stream = io.StringIO()
    after = Calls()
    writes = recorder(tmp_path, stream, monkeypatch, Calls(raises={method: error}))
    monkeypatch.setattr(writes, "_sinks", (*writes._sinks, ("After", after)))
    writes.step(record(1))
    writes.repeat([record(1)])
    writes.close()
    assert stream.getvalue().startswith(f"warning: cannot write Elsewhere: {reason}; training goes on\n")
    assert after.calls[-1] == ("close",)
    assert [read.step for read in read_records(tmp_path / "metrics.jsonl")] == [1]


def test_a_sink_that_fails_every_other_time_is_reported_once_in_a_hundred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    sink = Calls()
    writes = recorder(tmp_path, stream, monkeypatch, sink)
    for step in range(1, 200):
        sink.raises = {"step": ValueError("x")} if step % 2 else {}
        writes.step(record(step))
    assert stream.getvalue().splitlines() == [
        "warning: cannot write Elsewhere: ValueError: x; training goes on",
        "Elsewhere is written again, after 1 failures",
        "warning: cannot write Elsewhere: ValueError: x; training goes on",
        "Elsewhere is written again, after 50 failures",
    ]
    writes.close()


def test_a_sink_without_a_name_goes_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    calls = Calls(raises={"step": ValueError("x")})
    nameless: Any = SimpleNamespace(step=calls.step, rewind=calls.rewind, close=calls.close)
    writes = recorder(tmp_path, stream, monkeypatch, nameless)
    writes.step(record(1))
    monkeypatch.undo()
    assert stream.getvalue() == "warning: cannot write lines elsewhere: ValueError: x; training goes on\n"
    writes.close()
