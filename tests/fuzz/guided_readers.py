"""Lets Atheris play the readers of `guided.py`, each in a process of its own, and keeps what broke."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fuzz_report import SurfaceReport
from guided import READERS, REPOSITORY
from oracle import Problem
from trials import Input

_FOLDER = "guided"
_LIMITS = ("-timeout=20", "-rss_limit_mb=3000", "-max_len=20000", "-print_final_stats=1", "-verbosity=0")
_ERROR = re.compile(
    r"^([A-Za-z_.]+(?:Error|Exception|Exit)\b.*|.*libFuzzer: (?:timeout|out-of-memory).*)$", re.MULTILINE
)


def is_available() -> bool:
    """Whether Atheris is installed."""
    return importlib.util.find_spec("atheris") is not None


def play_reader(name: str, seconds: float, state: Path, found: Path, seed: int) -> SurfaceReport:
    """Plays one reader; goes on with the inputs that it has in the state."""
    report = SurfaceReport(f"guided: {name}")
    own = state / _FOLDER / name.replace(" ", "-")
    own.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("guided.py")), name, str(own / "corpus")]
    options = [f"-max_total_time={max(1, int(seconds))}", f"-seed={seed + 1}", f"-artifact_prefix={own}/broke-"]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*program, *_LIMITS, *options],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 600,
        check=False,
    )
    said = done.stdout + done.stderr
    counted = re.search(r"number_of_executed_units: (\d+)", said)
    report.codes["read"] = {"0": int(counted[1]) if counted else 0}
    if done.returncode:
        errors = _ERROR.findall(said)
        text = errors[0] if errors else said[-500:]
        report.found(Problem(text.split(":")[0], text), f"guided:{name}", Input(report.surface, "read", ()))
        for artifact in own.glob("broke-*"):
            keep(found, name, artifact.read_bytes())
    return report


def keep(found: Path, name: str, content: bytes) -> None:
    """Keeps an input that broke a reader."""
    folder = found / _FOLDER / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(content).hexdigest()[:12]).write_bytes(content)


def kept(found: Path) -> Iterator[tuple[str, Path]]:
    """Reader and file of every input that is kept."""
    for name in READERS:
        folder = found / _FOLDER / name.replace(" ", "-")
        yield from ((name, path) for path in sorted(folder.glob("*")))
