"""Plans of several phases: steps, learning rate and batch size over the run, layouts, and what channels must give."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from harness.channels.index_file import index_header
from harness.cli import run
from harness.config.schema import ChannelConfig, Config
from harness.errors import ConfigError, UsageError
from harness.picture import picture
from harness.plan import schedule_plot
from harness.plan.channel_tokens import tokens_to_train_on
from harness.plan.course import channel_rows, chart, course_rows
from harness.plan.demand import (
    demands,
    limit_problems,
    repetition_notes,
    require_within_limits,
    shortage_problems,
)
from harness.plan.layouts import needed_world_sizes, phase_problems, phase_world_sizes
from harness.plan.plan import make_plan
from harness.plan.plan_text import plan_text, print_plan
from harness.plan.record import plan_record
from harness.plan.schedule_plot import draw_plan, tokens_so_far

MAIN: dict[str, Any] = {
    "name": "main",
    "train_steps": 100,
    "seq_length": 64,
    "global_batch_size": 16,
    "blend": {"zh": 3.0, "en": 1.0},
    "schedule": {"warmup_steps": 10},
    "batch_ramp_up": {"start": 8, "increment": 4, "ramp_up_samples": 80},
}
LONG: dict[str, Any] = {
    "name": "long",
    "train_tokens": 256 * 4 * 20,
    "seq_length": 256,
    "global_batch_size": 4,
    "blend": {"zh": 1.0},
    "schedule": {"style": "linear", "continues": True, "min_learning_rate_share": 0.0},
}
UP_AGAIN: dict[str, Any] = {
    "name": "again",
    "train_steps": 10,
    "seq_length": 64,
    "global_batch_size": 16,
    "blend": {"en": 1.0},
    "schedule": {"style": "constant", "continues": True, "warmup_steps": 4},
    "optimizer": {"learning_rate": 2e-4},
}
TENSOR_TWO = {"tensor_model_parallel_size": 2, "micro_batch_size": 2}


def config(*phases: dict[str, Any], parallel: dict[str, Any] | None = None, **channel: Any) -> Config:
    names = ("zh", "en")
    return Config.model_validate(
        {
            "run": {"name": "test"},
            "model": {
                "num_layers": 2,
                "hidden_size": 64,
                "num_attention_heads": 4,
                "ffn_hidden_size": 128,
                "vocab_size": 512,
            },
            "parallel": parallel or {},
            "data": {"channels": {name: {"path": f"data/{name}", **channel} for name in names}},
            "phases": list(phases) or [MAIN, LONG, UP_AGAIN],
            "optimizer": {"learning_rate": 1e-3},
        }
    )


def test_phases_follow_each_other() -> None:
    plan = make_plan(config(), 1)
    assert [(phase.first_step, phase.last_step) for phase in plan.phases] == [(1, 100), (101, 120), (121, 130)]
    assert plan.borders == (100, 120)
    assert plan.train_steps == 130
    assert [plan.phase_of(step).name for step in (1, 100, 101, 120, 121, 130, 131)] == [
        "main",
        "main",
        "long",
        "long",
        "again",
        "again",
        "again",
    ]


def test_the_learning_rate_is_one_function_of_the_step() -> None:
    plan = make_plan(config(), 1)
    assert plan.learning_rate(10) == 1e-3
    end = plan.learning_rate(100)
    assert end == pytest.approx(1e-4)
    assert plan.phases[1].peak_learning_rate == end
    assert plan.learning_rate(101) == pytest.approx(end * 0.95)
    assert plan.learning_rate(120) == 0.0
    assert [plan.learning_rate(step) for step in (121, 122, 124, 130)] == [5e-5, 1e-4, 2e-4, 2e-4]


def test_a_warm_up_that_continues_may_lead_down() -> None:
    down = {**UP_AGAIN, "optimizer": {"learning_rate": 1e-5}}
    plan = make_plan(config({**MAIN, "schedule": {"style": "constant"}}, down), 1)
    assert [plan.learning_rate(step) for step in (100, 102, 104)] == [1e-3, pytest.approx(5.05e-4), 1e-5]


def test_batches_grow_and_tokens_count_them() -> None:
    plan = make_plan(config(), 1)
    assert [plan.batch_size(step) for step in (1, 5, 6, 9, 10, 101)] == [8, 8, 12, 12, 16, 4]
    sizes = [plan.batch_size(step) for step in range(1, 101)]
    assert plan.phases[0].train_samples == sum(sizes)
    assert plan.train_tokens == sum(sizes) * 64 + 20 * 4 * 256 + 10 * 16 * 64


def test_the_step_of_a_sample() -> None:
    plan, first = make_plan(config(), 1), 0
    for step in range(1, plan.train_steps + 1):
        size = plan.batch_size(step)
        assert {plan.step_of_sample(number) for number in (first, first + size - 1)} == {step}
        first += size
    assert plan.step_of_sample(first) == plan.train_steps + 1


def test_every_size_of_a_ramp_up_must_fit_the_layout() -> None:
    assert phase_problems(config(MAIN, parallel={"micro_batch_size": 8}), [1]) == [
        "batch_ramp_up.increment 4 of phase main is not a multiple of 8, of which every batch is made: use 8"
    ]


def test_a_phase_has_the_layout_of_its_own_section() -> None:
    own = config(MAIN, {**LONG, "parallel": TENSOR_TWO}, UP_AGAIN)
    assert needed_world_sizes(own) == [1, 2, 1]
    plan = make_plan(own, [1, 2, 1])
    assert [(phase.layout.tensor, phase.num_microbatches) for phase in plan.phases] == [(1, 16), (2, 2), (1, 16)]
    assert make_plan(own, 2, phase_index=1).layout == plan.phases[1].layout
    with pytest.raises(ConfigError) as caught:
        make_plan(own, 3)
    assert caught.value.problems == [
        "global_batch_size 16 of phase main is not divisible by micro_batch_size 1 x data-parallel size 3 = 3: "
        "use 15 or 18",
        "batch_ramp_up.start 8 of phase main is not a multiple of 3, of which every batch is made: use 6 or 9",
        "batch_ramp_up.increment 4 of phase main is not a multiple of 3, of which every batch is made: use 3 or 6",
        "parallel section of phase long: world size 3 is not a multiple of tensor 2 x pipeline 1 x context 1 = 2: "
        "start 2 or 4 ranks, or change the parallel sizes",
        "global_batch_size 16 of phase again is not divisible by micro_batch_size 1 x data-parallel size 3 = 3: "
        "use 15 or 18",
    ]


def test_phases_that_cannot_use_the_ranks_of_a_launch_get_what_they_need() -> None:
    own = config(MAIN, {**LONG, "parallel": TENSOR_TWO})
    assert phase_world_sizes(own, 1) == [1, 2]
    assert phase_world_sizes(own, 2) == [2, 2]
    only_two = config({**LONG, "schedule": {}, "parallel": TENSOR_TWO}, {**UP_AGAIN, "parallel": TENSOR_TWO})
    assert phase_world_sizes(only_two, 3) == [3, 3]


def write_channel(folder: Path, *tokens: int) -> None:
    folder.mkdir(parents=True)
    sizes = {"documents": 1, "bin_bytes": 8, "xxh3": "0" * 16}
    lines = [json.dumps({"prefix": f"part-{n:05d}", "tokens": count, **sizes}) for n, count in enumerate(tokens)]
    (folder / "parts.jsonl").write_text("".join(f"{line}\n" for line in lines) + '{"prefix": "part-9')


def total(channel: ChannelConfig, held_out_share: float) -> int:
    found = tokens_to_train_on(channel, held_out_share)
    assert found is not None
    return found.total


def test_tokens_of_a_channel_are_those_of_its_finished_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    channel = config().data.channels["zh"]
    assert tokens_to_train_on(channel, 0.01) is None
    write_channel(tmp_path / "data/zh", 1000, 500)
    assert total(channel, 0.01) == 1490
    with_set = channel.model_copy(update={"validation_path": Path("held")})
    assert total(with_set, 0.01) == 1500


@pytest.mark.parametrize("line", ["{", "[" * 60_000, '{"tokens": Infinity}', '{"tokens": 1}'])
def test_tokens_of_a_channel_whose_list_is_damaged_are_not_known(tmp_path: Path, line: str) -> None:
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh/parts.jsonl").write_text(line + "\n")
    channel = config().data.channels["zh"].model_copy(update={"path": tmp_path / "zh"})
    assert tokens_to_train_on(channel, 0.0) is None


def test_tokens_of_a_bare_pair(tmp_path: Path) -> None:
    (tmp_path / "old.idx").write_bytes(index_header("uint16", 1) + struct.pack("<iqqq", 1000, 0, 0, 1))
    (tmp_path / "old.bin").write_bytes(bytes(2000))
    channel = config().data.channels["zh"].model_copy(update={"path": tmp_path / "old"})
    assert total(channel, 0.0) == 1000


@pytest.mark.parametrize(
    ("rules", "missing", "is_problem"),
    [
        ({}, 0, False),
        ({"max_epochs": 2}, 98304 + 20480 - 2 * 50000, True),
        ({"when_low": "share"}, 98304 + 20480 - 50000, True),
        ({"when_low": "wait"}, 98304 + 20480 - 50000, False),
        ({"when_low": "share", "max_epochs": 3}, 0, False),
    ],
)
def test_more_tokens_than_a_channel_may_give(
    rules: dict[str, Any], missing: int, is_problem: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_channel(tmp_path / "data/zh", 50_000)
    plain = {**MAIN, "batch_ramp_up": None, "train_steps": 128}
    limited = config(plain, LONG, **rules)
    zh, en = demands(limited, make_plan(limited, 1))
    assert (zh.tokens_by_phase, zh.available_tokens) == ((98304, 20480), 50000)
    assert zh.missing_tokens == missing
    assert (en.available_tokens, en.missing_tokens, en.epochs) == (None, 0, None)
    problems = shortage_problems([zh, en])
    assert bool(problems) == is_problem
    if rules == {"max_epochs": 2}:
        assert problems == [
            "channel zh: the phases want 118,784 tokens, but 50,000 are there and may be used 2 times (max_epochs): "
            "18,784 tokens are missing. Add parts, raise max_epochs, lower the channel's weight, shorten a phase, or "
            "let it wait for parts (when_low: wait)"
        ]


def test_a_plan_that_needs_too_much_is_shown_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_channel(tmp_path / "data/zh", 50_000)
    with pytest.raises(ConfigError, match="tokens are missing"):
        print_plan(config(max_epochs=1), None, None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert not found["legal"]
    (zh, en) = found["channels"]
    assert (zh["max_epochs"], zh["missing_tokens"] > 0, en["available_tokens"]) == (1, True, None)


def test_a_chart_has_a_line_for_each_eighth_of_its_height() -> None:
    assert chart([0.0, 1.0, 2.0, 4.0], 2) == ["   █", " ▄██"]


def test_the_course_names_every_phase_below_its_columns() -> None:
    rows = dict(course_rows(make_plan(config(), 1)))
    assert rows["phase"].split("│")[1:] == ["main".ljust(54), "long".ljust(10), "again"]
    assert rows["from step"].split("│")[1:] == ["1".ljust(54), "101".ljust(10), "121  "]
    assert {len(line) for line in rows.values()} == {len(rows["phase"])}


def test_a_table_has_tokens_by_channel_and_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_channel(tmp_path / "data/zh", 50_000)
    made = config({**MAIN, "batch_ramp_up": None}, LONG, UP_AGAIN)
    rows = dict(channel_rows(plan_record(made, make_plan(made, 1), None)))
    assert rows["tokens"].split() == ["main", "long", "again", "all", "phases", "there", "now", "epochs"]
    assert rows["zh"].split() == ["76.8K", "20.5K", "-", "97.3K", "50K", "1.95"]
    assert rows["en"].split() == ["25.6K", "-", "10.2K", "35.8K", "not", "known", "not", "known"]
    assert "Course of 130 steps" in plan_text(made, make_plan(made, 1))


def test_tokens_so_far_end_with_those_of_the_plan() -> None:
    plan = make_plan(config(), 1)
    total = sum(tokens_so_far(plan, name, plan.train_steps) for name in ("zh", "en"))
    assert total == pytest.approx(plan.train_tokens)
    assert tokens_so_far(plan, "en", 110) == tokens_so_far(plan, "en", 100)


def test_a_plan_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plan.png"
    draw_plan("test", make_plan(config(), 1), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="Give a file in a folder that exists"):
        draw_plan("test", make_plan(config(), 1), tmp_path / "nowhere" / "plan.png")


def test_nothing_in_the_picture_of_a_plan_covers_another_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    checked: list[str] = []

    @contextmanager
    def kept(*arguments: Any, **settings: Any) -> Iterator[Any]:
        with picture(*arguments, **settings) as found:
            yield found
            found.figure.canvas.draw()
            for panel in found.panels:
                names = [text for text in panel.texts if text.get_text()]
                boxes = [text.get_window_extent() for text in names]
                assert not any(one.overlaps(other) for one, other in combinations(boxes, 2)), "names of phases"
                lowest = min(panel.transData.inverted().transform((box.x0, box.y0))[1] for box in boxes)
                highest = [max(line.get_ydata()) for line in panel.get_lines() if len(line.get_ydata()) > 2]
                assert all(value < lowest for value in highest), "names stand above the curve"
                legend = panel.get_legend()
                assert legend is None or not legend.get_window_extent().overlaps(panel.get_window_extent())
                checked.append(panel.get_ylabel())

    monkeypatch.setattr(schedule_plot, "picture", kept)
    phases = [MAIN, LONG, *({**UP_AGAIN, "name": name} for name in ("again", "and_again", "at_last"))]
    draw_plan("test", make_plan(config(*phases), 1), tmp_path / "plan.png")
    assert checked == ["learning rate", "tokens in a step", "tokens trained on"]


def test_the_picture_of_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    example = Path(__file__).parents[2] / "model_configs" / "tiny_phases.yaml"
    assert run(["plan", str(example), "--plot", str(tmp_path / "plan.png")]) == 0
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    assert "│warmup" in capsys.readouterr().out


def test_very_many_passes_and_a_last_step_that_changes_nothing_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_channel(tmp_path / "data/zh", 1000)
    ends_at_zero = {**MAIN, "batch_ramp_up": None, "schedule": {"style": "linear", "min_learning_rate_share": 0.0}}
    made = config(ends_at_zero)
    print_plan(made, None, None, as_json=True)
    record = json.loads(capsys.readouterr().out)
    many, idle = record["notes"]
    assert many.startswith("channel zh would be passed through ")
    assert "Beyond about 16 passes repeated text teaches next to nothing" in many
    last = make_plan(made, 1).train_steps
    assert idle == (
        f"phase main: the learning rate ends at 0, so its last step, {last:,}, changes no weight "
        "(schedule.min_learning_rate_share)"
    )
    print_plan(made, None, None, as_json=False)
    assert "Notes" in capsys.readouterr().out
    limited = config({**MAIN, "batch_ramp_up": None}, when_low="wait")
    print_plan(limited, None, None, as_json=True)
    assert json.loads(capsys.readouterr().out)["notes"] == []


def test_the_share_of_the_peak_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    times = {}
    for mfu in (None, 10.0):
        print_plan(config(MAIN), 1, None, as_json=True, mfu_pct=mfu)
        times[mfu] = json.loads(capsys.readouterr().out)["time"]
    assert (times[None]["assumed_mfu_pct"], times[10.0]["assumed_mfu_pct"]) == (40, 10.0)
    assert times[10.0]["seconds"] == pytest.approx(4 * times[None]["seconds"])


def test_four_passes_are_told_apart_from_sixteen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_channel(tmp_path / "data/zh", 50_000)
    plain = {**MAIN, "batch_ramp_up": None}
    notes = {}
    for steps in (128, 640, 12_800):
        made = config({**plain, "train_steps": steps})
        notes[steps] = repetition_notes(demands(made, make_plan(made, 1)))
    assert notes[128] == []
    assert (
        "channel zh would be passed through 9.8 times: 491,520 tokens are asked, and as of now 50,000" in notes[640][0]
    )
    assert "Up to about 4 passes are nearly as good as new text" in notes[640][0]
    assert "passed through 197 times" in notes[12_800][0]
    assert "Beyond about 16 passes repeated text teaches next to nothing" in notes[12_800][0]


@pytest.mark.parametrize(
    ("limits", "rules", "refused"),
    [
        (
            (2.0, None),
            {},
            ["phases.0.max_epochs: channel zh would be passed through 2.95 times by the end of phase main"],
        ),
        (
            (3.0, 3.0),
            {},
            ["phases.1.max_epochs: channel zh would be passed through 3.36 times by the end of phase long"],
        ),
        ((3.0, 3.5), {}, []),
        ((2.0, 2.0), {"max_epochs": 2}, []),
        ((2.0, 2.0), {"max_epochs": 3}, ["phases.0.max_epochs", "phases.1.max_epochs"]),
        ((2.0, 2.0), {"when_low": "wait"}, []),
    ],
)
def test_a_phase_limits_the_passes_up_to_its_end(
    limits: tuple[float | None, float | None],
    rules: dict[str, Any],
    refused: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_channel(tmp_path / "data/zh", 50_000)
    first = {**MAIN, "batch_ramp_up": None, "train_steps": 192, "max_epochs": limits[0]}
    made = config(first, {**LONG, "max_epochs": limits[1]}, **rules)
    problems = limit_problems(made, demands(made, make_plan(made, 1)))
    assert len(problems) == len(refused)
    assert all(text in problem for text, problem in zip(refused, problems, strict=True))
    assert all("as of now 50,000 are there; at most " in problem for problem in problems)
    if refused:
        with pytest.raises(ConfigError, match="max_epochs: channel zh"):
            require_within_limits(made, make_plan(made, 1))
    else:
        require_within_limits(made, make_plan(made, 1))
