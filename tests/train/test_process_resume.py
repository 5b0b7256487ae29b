"""Going on with a run: what is allowed to change, what is counted, and what people see of it."""

from __future__ import annotations

import os
import pty
import re
import subprocess

import pytest
from process_runs import Site

from harness.run.paths import RunDir

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A run of 8 steps in all."""
    made = Site(tmp_path_factory.mktemp("resume"))
    made.config["phases"][0]["train_steps"] = 8
    return made


def test_stop_at_step_then_another_layout_rate_and_batch_size_then_anew(site: Site) -> None:
    code, text = site.train("--set", "run.stop_at_step=3", cold=True).finish()
    assert code == 0, text
    assert "finished (exit code 0): step 3 of 8" in text
    assert ": run.stop_at_step is reached; saved in " in text
    expect_first_and_last_lines(site, text)

    changed = ("parallel.tensor_model_parallel_size=2", "optimizer.learning_rate=5e-3", "phases.0.global_batch_size=2")
    changed += ("phases.0.schedule.changed_after_step=3",)
    code, text = site.train(*(word for change in changed for word in ("--set", change))).finish()
    assert code == 0, text
    for line in (
        "the configuration differs from the previous launch:",
        "  run.stop_at_step: 3, now null",
        "  parallel.tensor_model_parallel_size: 1, now 2",
        "  phases.0.global_batch_size: 4, now 2",
        "  optimizer.learning_rate: 0.01, now 0.005",
        f"resuming small from {site.run_dir.checkpoint(3)} (step 3)",
    ):
        assert line in text.splitlines()
    assert [record.consumed_samples for record in site.records()] == [4, 8, 12, 14, 16, 18, 20, 22]
    assert {record.attempt for record in site.records()} == {0}
    assert site.records()[3].values["optim/learning_rate"] == pytest.approx(
        site.records()[2].values["optim/learning_rate"] / 2, rel=0.5
    )

    code, text = site.train("--resume", "never", "--set", "run.stop_at_step=2").finish()
    assert code == 0, text
    assert f"starting small anew in {site.run_dir.root}, seed 1234" in text
    assert [(record.attempt, record.step) for record in site.records()] == [(1, 1), (1, 2)]
    assert site.checkpoints() == ["step_0000002", "step_0000003", "step_0000008"]

    # The new attempt is what the run goes on from, though older steps are higher.
    of_second_rank = site.run_dir.launch(2) / "node_0.log"
    assert of_second_rank.exists()
    code, text = site.train("--set", "run.stop_at_step=3", "--set", "launch.keep_logs=2").finish()
    assert code == 0, text
    assert not of_second_rank.exists()
    assert (site.run_dir.launch(2) / "launch.json").exists()
    assert f"resuming small from {site.run_dir.checkpoint(2)} (step 2)" in text
    assert [(record.attempt, record.step) for record in site.records()] == [(1, 1), (1, 2), (1, 3)]
    assert site.checkpoints() == ["step_0000002", "step_0000003", "step_0000003.2", "step_0000008"]


def expect_first_and_last_lines(site: Site, text: str) -> None:
    lines = text.splitlines()
    assert lines[:4] == [
        f"{site.run_dir.root}: starting 1 process on the CPU",
        f"starting small anew in {site.run_dir.root}, seed 1234",
        "model: 37,024 parameters, 2 layers, fp32; 1 x cpu: tensor 1, pipeline 1, data 1",
        "data: en 75 % (2,443 tokens), code 25 % (2,381 tokens)",
    ]
    assert lines[4].startswith("plan: 8 steps of 4 samples of 16 tokens; to save or stop in between: touch ")
    assert re.fullmatch(r"step 1/8  loss 5\.\d{4}  en 5\.\d{4}  code 5\.\d{4}  grad .* left 0:\d\d", lines[5])
    assert "TFLOP/s" not in lines[5]
    assert lines[8] == f"saved {site.run_dir.checkpoint(3)} in {site.events('saved')[0]['seconds']} s"
    assert len(lines) == 10


def test_nobody_reads_the_output(site: Site) -> None:
    folder = site.root / "unread"
    with site.train("--set", "run.stop_at_step=4", run_dir=folder, cold=True) as command:
        assert isinstance(command.process, subprocess.Popen)
        assert command.process.stdout is not None
        command.process.stdout.close()
        command.process.stdout = None
        assert command.process.wait(180) == 0
    assert sorted(site.losses(RunDir(folder))) == [1, 2, 3, 4]
    assert RunDir(folder).checkpoint(4).is_dir()


def test_a_terminal_shows_a_bar_below_the_lines(site: Site) -> None:
    terminal, end = pty.openpty()
    command = site.train("--set", "run.stop_at_step=4", run_dir=site.root / "watched", terminal=end)
    os.close(end)
    with command:
        seen = read_all(terminal)
        assert command.process.wait(180) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert "4/8" in plain
    assert re.search(r"step 4/8  loss \d\.\d{4}", plain)
    assert "finished (exit code 0): step 4 of 8" in plain
    assert "\x1b[?25h" in seen[seen.rindex("\x1b[?25l") :]  # the cursor is shown again


def read_all(terminal: int) -> str:
    seen = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            os.close(terminal)
            return seen.decode()
        seen += part
