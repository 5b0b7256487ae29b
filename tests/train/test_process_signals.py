"""Commands by file, by command and by signal, to real processes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from process_runs import HARNESS, REPOSITORY, Command, Site, processor_seconds

NEVER_ENDS = 1_000_000

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.config["phases"][0]["train_steps"] = NEVER_ENDS
    made.run_dir.make_folders()
    return made


def drop(site: Site, name: str, content: str = "") -> None:
    (site.run_dir.signals / name).write_text(content)


def acknowledged(site: Site, source: str) -> list[dict[str, Any]]:
    """The answers to the commands of one source, oldest first."""
    return sorted((done for done in site.acknowledgements() if done["source"] == source), key=lambda done: done["time"])


def wait_for_acknowledgement(site: Site, command: Command, source: str, count: int = 1) -> dict[str, Any]:
    command.wait_until(lambda: len(acknowledged(site, source)) >= count)
    return acknowledged(site, source)[-1]


def is_saved(site: Site, done: dict[str, Any]) -> bool:
    path = site.run_dir.checkpoint(done["step"])
    return bool(done["saved"]) and done["path"] == str(path) and done["seconds"] > 0 and path.is_dir()


def test_every_way_to_order_a_save(site: Site) -> None:
    site.config["parallel"] = {"tensor_model_parallel_size": 2}
    drop(site, "save", "before the start")
    with site.train(cold=True) as command:
        first = wait_for_acknowledgement(site, command, "save")
        assert (first["step"], first["saved"], first["problem"]) == (0, False, "no step was done yet")
        assert first["reason"] == "before the start"

        command.wait_until(lambda: site.last_step() > 0)  # a run that waits for its first part answers at step 0 again
        drop(site, "save")
        assert is_saved(site, wait_for_acknowledgement(site, command, "save", 2))

        save = [*HARNESS, "signal", str(site.run_dir.root), "save", "--wait", "--reason", "noon"]
        told = subprocess.run(save, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
        assert "kind: save\nreason: noon\n" in told.stdout
        assert "saved: True\npath: " in told.stdout

        command.process.send_signal(signal.SIGUSR1)
        assert is_saved(site, wait_for_acknowledgement(site, command, "SIGUSR1"))
        drop(site, "svae")
        drop(site, "x.json", '{"kind": "fly"}')
        os.kill(command.workers()[1], signal.SIGUSR1)
        assert is_saved(site, wait_for_acknowledgement(site, command, "SIGUSR1", 2))
        command.wait_until(lambda: (site.run_dir.signals_rejected / "x.json.reason").exists())

        # Twice, and again while it saves: the process ends by its own exit code all the same.
        os.kill(command.workers()[1], signal.SIGTERM)
        command.process.send_signal(signal.SIGTERM)
        wait_for_acknowledgement(site, command, "SIGTERM")
        if command.process.poll() is None:
            command.process.send_signal(signal.SIGTERM)
        code, text = command.finish()
    assert code == 75, text
    assert "stopped, start it again to go on (exit code 75): step " in text
    assert ": save-and-stop by SIGTERM; saved in " in text
    assert is_saved(site, *acknowledged(site, "SIGTERM"))
    assert len(acknowledged(site, "SIGUSR1")) == 2
    assert len(site.events("saved")) == 5
    rejected = {path.name: path.read_text() for path in site.run_dir.signals_rejected.glob("*.reason")}
    assert "did you mean `save`?" in rejected["svae.reason"]
    assert '"kind" is "fly"' in rejected["x.json.reason"]


def test_what_is_saved_is_not_saved_again_and_a_persons_stop_wins(site: Site) -> None:
    code, text = site.train("--set", "run.stop_at_step=2").finish()
    assert code == 0, text
    drop(site, "save")
    drop(site, "stop", "enough")
    code, text = site.train().finish()
    saved = site.run_dir.checkpoint(2)
    assert code == 77, text
    assert f"(exit code 77): step 2 of {NEVER_ENDS}" in text
    assert f": stop: enough; saved in {saved}" in text
    (done,) = acknowledged(site, "save")
    assert done | {"time": 0} == {
        "kind": "save",
        "reason": "",
        "source": "save",
        "time": 0,
        "step": 2,
        "attempt": 0,
        "saved": True,
        "path": str(saved),
        "seconds": None,
    }
    assert len(site.events("saved")) == 1


def test_an_order_to_stop_ends_an_evaluation(site: Site) -> None:
    site.enlarge_channel("en", num_documents=4000)
    site.config["evaluation"] = {"every_steps": 2, "num_samples_per_channel": 8000, "held_out_share": 0.9}
    with site.train() as command:
        command.wait_until(lambda: site.last_step() >= 1)
        worker = command.workers()[0]
        before = processor_seconds(worker)
        # A step costs some hundredths of a second: so long after the first one, it is the evaluation that computes.
        command.wait_until(lambda: processor_seconds(worker) > before + 2)
        drop(site, "stop")
        code, text = command.finish()
    assert code == 77, text
    assert "held-out" not in text
    assert [record.step for record in site.records()] == [1, 2]
    (done,) = acknowledged(site, "stop")
    assert (done["step"], done["attempt"]) == (2, 0)
    assert site.checkpoints() == []
    assert "no checkpoint was saved" in text
