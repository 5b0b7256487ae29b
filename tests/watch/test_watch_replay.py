"""`harness replay`: its output, its errors, and the score on the recorded curves."""

import gzip
import json
import random
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.errors import DataError, UsageError
from harness.picture import picture
from harness.watch import curve_plot
from harness.watch.attempts import counted_and_rolled_back
from harness.watch.recordings import curve_name, read_recording
from harness.watch.rehearsal import Rehearsal, rehearse
from harness.watch.replay import pooled, run_replay
from harness.watch.score import read_labels
from harness.watch.watch_verbs import replay

CURVES = Path(__file__).parent / "curves"
FAMILIES = {"mixtral": 28, "gpt3": 1, "gpt2": 1, "pythia": 2, "modded-nanogpt": 11}


def write_curve(path: Path, num_steps: int = 3000, seed: int = 0) -> None:
    """A quiet curve with a spike of one step at 2000 and a divergence at 2500."""
    noise = random.Random(seed)
    rows = ["step,loss"]
    for step in range(1, num_steps + 1):
        shape = 0.5 * (step == 2000) + 4.0 * (step >= 2500)
        rows.append(f"{step},{2.5 + shape + noise.gauss(0.0, 0.03):.5f}")
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("name", "text"), [("prose.jsonl", '{"text": "Once upon a time"}\n'), ("empty.csv", "step,loss\n")]
)
def test_a_file_without_losses_is_refused(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        run_replay([path], None, as_json=False, plot=None)
    assert str(caught.value) == f"{path}: found no step with a loss. Give the metrics.jsonl of a run, or its folder."


def test_the_json_is_as_promised(tmp_path: Path) -> None:
    write_curve(tmp_path / "one.csv")
    labels = tmp_path / "labels.csv"
    labels.write_text("curve,direction,start,end\none,up,2000,2000\none,up,2500,2700\nother,up,1,1\n")
    result = CliRunner().invoke(replay, [str(tmp_path / "one.csv"), "--labels", str(labels), "--json"])
    assert result.exit_code == 0
    document = json.loads(result.output)
    events = document["curves"]["one"]["events"]
    assert events[:4] == [
        {"start": 2000, "end": 2000, "direction": "up", "verdict": "suspect", "channel": "total"},
        {"start": 2000, "end": 2000, "direction": "up", "verdict": "benign", "channel": "total"},
        {"start": 2500, "end": 2500, "direction": "up", "verdict": "suspect", "channel": "total"},
        {"start": 2500, "end": 2501, "direction": "up", "verdict": "confirmed", "channel": "total"},
    ]
    assert document["curves"]["one"]["rollbacks"] == [
        {
            "step": 2600,
            "to_step": 1500,
            "skip_from_step": 2450,
            "skip_to_step": 2650,
            "reason": "loss of total went up at step 2500 and has not come back",
        }
    ]
    assert document["pooled"] == {
        "recall": 1.0,
        "recall_up": 1.0,
        "recall_down": None,
        "recall_persistent": 1.0,
        "precision": 1.0,
        "delay_p50_steps": 0,
        "delay_p90_steps": 0,
        "false_alarms_per_100k": 0.0,
        "false_confirmed_per_100k": 0.0,
        "wasted_steps": 100,
    }


def test_without_labels_there_is_no_score(tmp_path: Path) -> None:
    write_curve(tmp_path / "one.csv", num_steps=1990)
    result = CliRunner().invoke(replay, [str(tmp_path / "one.csv"), "--json"])
    assert json.loads(result.output) == {"curves": {"one": {"events": [], "rollbacks": []}}}


def test_the_table_for_people(tmp_path: Path) -> None:
    write_curve(tmp_path / "one.csv")
    output = CliRunner().invoke(replay, [str(tmp_path / "one.csv")]).output
    assert output.startswith("one: 3,000 logged steps: 1 benign, ")
    assert "  step 2000: suspect up in total since step 2000: +0.5" in output
    assert "  step 2600: would return to step " in output


def test_an_event_that_is_open_at_the_end_has_its_true_end(tmp_path: Path) -> None:
    write_curve(tmp_path / "one.csv", num_steps=2550)
    result = rehearse(read_recording(tmp_path / "one.csv"))
    assert (result.verdicts[-1].kind, result.verdicts[-1].start, result.verdicts[-1].end) == ("confirmed", 2500, 2550)


def test_two_curves_of_one_name_are_refused(tmp_path: Path) -> None:
    write_curve(tmp_path / "one.csv", 10)
    write_curve(tmp_path / "one.b.csv", 10)
    with pytest.raises(UsageError) as caught:
        run_replay([tmp_path / "one.csv", tmp_path / "one.b.csv"], None, as_json=True, plot=None)
    assert str(caught.value) == (
        f"{tmp_path}/one.csv and {tmp_path}/one.b.csv: both are the curve 'one', the file name up to the first dot. "
        "Names must differ; rename one, or replay them one after the other."
    )


def test_a_plot_without_matplotlib_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_curve(tmp_path / "one.csv", 10)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError) as caught:
        run_replay([tmp_path / "one.csv"], None, as_json=False, plot=Path("x.png"))
    assert str(caught.value) == (
        "--plot x.png: drawing needs matplotlib, which is not installed. "
        "Install it (pip install 'harness[plot]'), or leave --plot away."
    )


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_curve(tmp_path / "one.csv")
    run_replay([tmp_path / "one.csv"], None, as_json=False, plot=tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"cannot be written: .*Give a file in a folder that exists\."):
        run_replay([tmp_path / "one.csv"], None, as_json=False, plot=tmp_path / "no" / "x.png")


@pytest.mark.parametrize(
    ("steps", "counted", "rolled_back"),
    [
        ([1, 2, 3], [0, 1, 2], []),
        ([1, 2, 3, 2, 3], [0, 3, 4], [range(3)]),
        ([1, 2, 3, 4, 3, 4, 2, 3], [0, 6, 7], [range(4), range(4, 6)]),
        ([1, 2, 1, 2], [2, 3], [range(2)]),
        ([5], [0], []),
        ([1, 2, 3, 4, 5, 3, 4, 5, 6], [0, 1, 5, 6, 7, 8], [range(1, 5)]),
    ],
)
def test_what_was_rolled_back_is_told_apart(steps: list[int], counted: list[int], rolled_back: list[range]) -> None:
    assert counted_and_rolled_back(steps) == (counted, rolled_back)


def test_lines_of_a_plot_never_go_backwards_and_its_legend_covers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    drawn: list[Any] = []

    @contextmanager
    def kept(*arguments: Any, **settings: Any) -> Iterator[Any]:
        with picture(*arguments, **settings) as found:
            yield found
            found.figure.canvas.draw()
            panel = found.panels[0]
            drawn.append(([line.get_xdata() for line in panel.get_lines()], panel))
            legend = panel.get_legend().get_window_extent()
            assert not legend.overlaps(panel.get_window_extent()), "the legend lies beside the panel"

    monkeypatch.setattr(curve_plot, "picture", kept)
    rehearsal = Rehearsal(steps=array("q", [1, 2, 3, 2, 3, 4]), losses=array("d", [3, 2, 9, 2, 1, 1]))
    curve_plot.draw({"one": rehearsal}, {}, tmp_path / "x.png")
    [(lines, panel)] = drawn
    assert [list(line) for line in lines] == [[1, 2, 3], [1, 2, 3, 4]]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("step", "loss in nats")
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["rolled back", "counts"]


@pytest.fixture(scope="module")
def rehearsals() -> dict[str, Rehearsal]:
    """All recorded curves that are long enough to be scored."""
    paths = [path for path in sorted(CURVES.glob("*.csv.gz")) if "excerpt" not in path.name and "olmo" not in path.name]
    return {curve_name(path): rehearse(read_recording(path)) for path in paths}


def test_the_yardstick(rehearsals: dict[str, Rehearsal]) -> None:
    labels = read_labels(CURVES / "labels.csv")
    found = {
        family: sum(
            delay is not None
            for name, rehearsal in rehearsals.items()
            if name.startswith(family)
            for _, delay in pooled({name: rehearsal}, labels).found
        )
        for family in FAMILIES
    }
    assert found == FAMILIES
    summary = pooled(rehearsals, labels).summary()
    assert summary["recall"] == 1.0
    assert summary["delay_p50_steps"] == 0
    assert summary["false_alarms_per_100k"] <= 0.7  # type: ignore[operator]
    assert summary["false_confirmed_per_100k"] <= 0.3  # type: ignore[operator]


def test_no_real_spike_that_healed_is_rolled_back(rehearsals: dict[str, Rehearsal]) -> None:
    labels = read_labels(CURVES / "labels.csv")
    orders = [(name, each.action.start) for name, rehearsal in rehearsals.items() for each in rehearsal.actions]
    in_events = [
        (name, start) for name, start in orders if any(each.start <= start <= each.end for each in labels.get(name, ()))
    ]
    assert in_events == []
    assert len(orders) <= 2


@pytest.mark.parametrize(
    ("name", "step"), [("bloom-176b", 31_216), ("bigscience-13b", 29_050), ("bigscience-104b", 11_448)]
)
def test_famous_spikes_are_seen_at_their_first_step(tmp_path: Path, name: str, step: int) -> None:
    with gzip.open(CURVES / f"{name}-excerpt.csv.gz", "rt") as file:
        header, *rows = file.read().split()
    noise = random.Random(1)
    first = rows[0].split(",")
    interval = int(rows[1].split(",")[0]) - int(first[0])
    before = []
    for k in range(600, 0, -1):
        loss = float(first[1]) + noise.gauss(0.0, 0.03)
        norm = float(first[2]) * 2 ** noise.gauss(0.0, 0.2)
        before.append(f"{int(first[0]) - k * interval},{loss:.5f},{norm:.5g},{first[3]}")
    path = tmp_path / "x.csv"
    path.write_text("\n".join([header, *before, *rows]))
    suspects = [v for v in rehearse(read_recording(path)).verdicts if v.kind == "suspect"]
    assert suspects[0].step == step
    assert {v.start for v in suspects} == {step}  # said again as it grows


def test_lines_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    good = [json.dumps({"step": step, "loss": 3.0}).encode() for step in (1, 2)]
    damaged = [b'{"step": 3, "phase": "\xd1', b"[" * 100_000, b"\0" * 50]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([good[0], *damaged, good[1], b""]))
    output = CliRunner().invoke(replay, [str(tmp_path / "metrics.jsonl")]).output
    assert output == "metrics: 2 logged steps: nothing strange\n"
