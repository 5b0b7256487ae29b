"""Parts of a visit to a GPU that hang, fail or find no time: the rest goes on, and the summary says so."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from limited import Outcome, Part, run_parts, summary_text

ABOUT = {"gpu": "some GPU"}


def python(name: str, program: str, limit_s: float = 60.0) -> Part:
    return Part(name=name, command=(sys.executable, "-S", "-c", program), limit_s=limit_s)


def run(out: Path, *parts: Part, limit_s: float = 120.0) -> list[Outcome]:
    return run_parts(parts, out / "summary.json", about=ABOUT, environment=os.environ, limit_s=limit_s)


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_what_hangs_is_ended_with_its_children_and_the_rest_goes_on(tmp_path: Path) -> None:
    child = tmp_path / "child"
    hangs = (
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('first words', flush=True)\n"
        f"if os.fork() == 0: pathlib.Path({str(child)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    first, second = run(tmp_path, python("hangs", hangs, limit_s=2.0), python("after", "print('done')"))
    assert (first.outcome, first.returncode) == ("timed out", -9)
    assert 2.0 <= first.seconds < 30.0
    assert second.outcome == "ok"
    assert (tmp_path / "hangs.log").read_text() == "first words\n"
    pid = int(child.read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_what_fails_is_named_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failing = python("failing", "import sys; print('why it fails'); sys.exit(3)")
    outcomes = run(tmp_path, failing, python("after", "print('done')"))
    assert [(each.outcome, each.returncode) for each in outcomes] == [("failed", 3), ("ok", 0)]
    shown = capsys.readouterr().out
    assert "== failing: failed after" in shown
    assert "why it fails\n" in shown
    assert summary(tmp_path)["gpu"] == "some GPU"
    assert [part["outcome"] for part in summary(tmp_path)["parts"]] == ["failed", "ok"]


def test_results_are_written_as_they_come(tmp_path: Path) -> None:
    looks = f"import pathlib; print(pathlib.Path({str(tmp_path / 'summary.json')!r}).read_text())"
    run(tmp_path, python("first", "print('one')"), python("looks", looks))
    seen = json.loads((tmp_path / "looks.log").read_text())
    assert [part["part"] for part in seen["parts"]] == ["first"]


def test_a_part_without_time_is_not_begun(tmp_path: Path) -> None:
    [outcome] = run(tmp_path, python("late", "print('never')"), limit_s=1.0)
    assert (outcome.outcome, outcome.returncode, outcome.seconds) == ("not begun", None, 0.0)
    assert not (tmp_path / "late.log").exists()
    assert summary(tmp_path)["parts"][0]["outcome"] == "not begun"


def test_a_part_has_no_more_time_than_the_visit(tmp_path: Path) -> None:
    [outcome] = run(tmp_path, python("long", "print('done')", limit_s=1000.0), limit_s=20.0)
    assert outcome.limit_s == pytest.approx(20.0, abs=1.0)


def test_the_summary_has_one_line_for_each_part() -> None:
    outcomes = [
        Outcome(part="kernels", outcome="timed out", returncode=-15, seconds=110.2, limit_s=110),
        Outcome(part="runs", outcome="not begun", returncode=None, seconds=0.0, limit_s=4.4),
    ]
    assert summary_text(outcomes).splitlines()[1:] == [
        "kernels              timed out   -15    110.2    110",
        "runs                 not begun     -      0.0      4",
    ]
