"""The corpus file on Ray, where it is installed: what it makes is what a local pool makes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from texts import CHINESE, ENGLISH

pytest.importorskip("datatrove")
pytest.importorskip("rensa")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "harness.cli", "data", *map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    for number in range(3):
        lines = [
            json.dumps({"text": f"{text} {number if own else ''}"}) for text in (ENGLISH, CHINESE) for own in (0, 1)
        ]
        (tmp_path / "raw" / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "corpus.yaml").write_text(
        f"output: {tmp_path}/made\nsources:\n  web: {{input: [{tmp_path}/raw], dedup: {{methods: [exact]}}}}\n"
        "executor: {ray: {mem_per_cpu_gb: 0.2}}\n"
    )
    return tmp_path / "corpus.yaml"


@pytest.mark.slow
def test_ray_makes_what_this_machine_makes(file: Path) -> None:
    pytest.importorskip("ray")
    made = []
    for kind in ("local", "ray"):
        for verb in ("clean", "dedup"):
            done = run(verb, "--config", file, "--executor", kind)
            assert done.returncode == 0, done.stdout + done.stderr
        folder = file.parent / "made"
        made.append({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jsonl")})
        folder.rename(file.parent / kind)
    assert len(made[0]) == 6 and made[0] == made[1]


def test_ray_is_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep.corpus.verbs import Choice, clean_corpus
    from harness.errors import UsageError

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="executor ray needs the Python package ray, which is not installed"):
        clean_corpus(Choice(config=file, executor="ray"))
