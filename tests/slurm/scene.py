"""A run on a real Slurm as an operator lives with it: what `harness status` says all the time, and who is told what."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from cluster import Cluster

from harness.channels.index_file import index_header
from harness.launch.status import Status, status_of
from harness.run.paths import RunDir

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "stand_in"
PATIENCE_S = 120.0

CONFIG: dict[str, Any] = {
    "run": {"name": "scene"},
    "model": {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "ffn_hidden_size": 64, "vocab_size": 300},
    "data": {"channels": {"zh": {"path": "zh"}}},
    "phases": [{"name": "main", "train_steps": 1000, "seq_length": 32, "global_batch_size": 8, "blend": {"zh": 1}}],
    "optimizer": {"learning_rate": 3e-4},
    "launch": {
        "nodes": 2,
        "gpus_per_node": 0,
        "time_limit": "60",
        "signal_lead_s": 30,
        "whole_nodes": False,
        "check_nodes": False,
        "watch": False,
        "environment_file": "environment.sh",
    },
    "watch": {"poll_s": 0.5, "least_free_gib": 0, "alert_every_s": 0},
}

Told = dict[str, Any]


class Scene:
    """One run, and what is seen of it."""

    def __init__(self, cluster: Cluster, folder: Path, behaviours: Iterable[dict[str, Any]]) -> None:
        self.cluster = cluster
        self.folder = folder
        self.run_dir = RunDir(folder / "run")
        self.job_id = ""
        self.seen: list[tuple[float, Status]] = []
        """What `harness status` said, and when."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._watcher: subprocess.Popen[bytes] | None = None
        (folder / "zh.bin").write_bytes(b"\1\0\2\0")
        (folder / "zh.idx").write_bytes(index_header("uint16", 1) + struct.pack("<iqqq", 2, 0, 0, 1))
        (folder / "environment.sh").write_text(f"export PYTHONPATH={STAND_IN}:{ROOT}:{ROOT / 'tests'}\n")
        self.run_dir.root.mkdir()
        (self.run_dir.root / "behaviour.json").write_text(json.dumps(list(behaviours)))
        self.webhook_is_down = folder / "down"
        webhook = folder / "webhook.py"
        webhook.write_text(
            "import json, sys, time\nfrom pathlib import Path\n"
            f"if Path({str(self.webhook_is_down)!r}).exists(): sys.exit(1)\n"
            "line = json.loads(sys.stdin.readline()) | {'at': time.time()}\n"
            f"with open({str(folder / 'told')!r}, 'a') as file: file.write(json.dumps(line) + '\\n')\n"
        )
        self.command = [sys.executable, str(webhook)]

    def submit(self, settings: dict[str, Any] | None = None, /, *arguments: str, **launch: Any) -> None:
        """Queues the run with changed settings of `watch` and `launch`, and looks at it from then on."""
        config = CONFIG | {
            "launch": CONFIG["launch"] | launch,
            "watch": CONFIG["watch"] | {"alert_command": self.command} | (settings or {}),
        }
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config))
        done = self.harness("launch", "config.yaml", "--run-dir", "run", *arguments)
        assert done.returncode == 0, done.stderr
        self.job_id = done.stdout.partition("queued job ")[2].partition(":")[0]
        if not self._thread.is_alive():
            self._thread.start()

    def harness(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "harness.cli", *arguments)
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    @property
    def environment(self) -> dict[str, str]:
        return self.cluster.environment | {"PYTHONPATH": str(ROOT)}

    def watch_from_outside(self) -> None:
        """Starts a watcher on the login node."""
        command = (sys.executable, "-m", "harness.cli", "watch", "run")
        with (self.folder / "watch.log").open("ab") as log:
            self._watcher = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)

    def watcher_left(self) -> int:
        """Waits for the watcher on the login node to leave, and returns its exit code."""
        assert self._watcher is not None, "it was started"
        return self._watcher.wait(timeout=PATIENCE_S)

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._watcher is not None:
            self._watcher.terminate()
            self._watcher.wait(timeout=30)
        subprocess.run(("scancel", self.job_id), env=self.environment, capture_output=True, timeout=30, check=False)

    # ---- what is seen ----

    def _look(self) -> None:
        while not self._ended.is_set():
            self.seen.append((time.time(), status_of(self.run_dir)))
            self._ended.wait(0.4)

    def states(self) -> list[str]:
        """What `status` said so far, without repetitions in a row."""
        return [word for word, _ in groupby(str(status.state) for _, status in self.seen)]

    def now(self) -> Status:
        return self.seen[-1][1]

    def told(self) -> list[Told]:
        """What people were told so far."""
        path = self.folder / "told"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def kinds(self) -> list[tuple[str, str, str]]:
        """Severity, kind and state of everything that people were told."""
        return [(each["severity"], each["kind"], each["state"]) for each in self.told()]

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> float:
        """Waits until a condition holds; returns the seconds that it took."""
        begun = time.time()
        while not condition():
            assert time.time() < begun + timeout_s, f"not within {timeout_s:g} s: {what}\n{self.shown()}"
            time.sleep(0.1)
        return time.time() - begun

    def wait_for_state(self, *words: str, timeout_s: float = PATIENCE_S) -> float:
        seen = len(self.seen)
        return self.wait(
            lambda: any(str(status.state) in words for _, status in self.seen[seen:]),
            f"the state is {' or '.join(words)}",
            timeout_s,
        )

    def wait_for_told(self, kind: str, state: str = "open", count: int = 1, timeout_s: float = PATIENCE_S) -> float:
        """Waits until people were told of that, so many times."""
        return self.wait(
            lambda: sum((each["kind"], each["state"]) == (kind, state) for each in self.told()) >= count,
            f"people are told of {kind} ({state})",
            timeout_s,
        )

    def wait_for_steps(self, count: int) -> None:
        goal = self.step() + count
        self.wait(lambda: self.step() >= goal, f"step {goal}")

    def step(self) -> int:
        try:
            return int(json.loads(self.run_dir.metrics.read_text().splitlines()[-1])["step"])
        except (OSError, IndexError, ValueError):
            return 0

    def shown(self) -> str:
        """Everything that explains a failure."""
        log = self.run_dir.job_log(self.job_id)
        watch = self.folder / "watch.log"
        inside = sorted(self.run_dir.launches.glob("*/watch.log"))
        parts = [
            f"states: {self.states()}",
            f"told: {self.kinds()}",
            f"now: {self.now() if self.seen else None}",
            log.read_text() if log.exists() else "",
            watch.read_text()[-3000:] if watch.exists() else "",
            *(path.read_text()[-3000:] for path in inside),
        ]
        return "\n".join(parts)

    # ---- what happens ----

    def processes(self, node: int, module: str) -> list[int]:
        """Processes of the job on a node that run a module."""
        ours = set(self.cluster.processes("SLURM_JOB_ID", self.job_id))
        found = [pid for pid in self.cluster.processes("SLURM_NODEID", str(node)) if pid in ours]
        return sorted(pid for pid in found if module.encode() in _command_line(pid))

    def slurm(self, *command: str) -> str:
        return self.cluster.command(*command)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def use_cluster(cluster: Cluster) -> dict[str, str]:
    """Returns the environment variables by which this process finds the test's Slurm."""
    return {name: cluster.environment[name] for name in ("PATH", "SLURM_CONF")}
