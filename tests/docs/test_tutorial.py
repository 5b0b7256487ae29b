"""Follows docs/tutorial.md: writes its files and runs its commands, in order, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sentencepiece")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(?:\w+) (?:file=(?P<file>\S+)|(?P<run>run))\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
NEEDS_A_CLUSTER = {"harness launch cluster.yaml --nodes 2", "harness status runs/books-cluster"}
BEFORE = {"make demo", ". .venv/bin/activate", "harness doctor", "mkdir ~/tutorial && cd ~/tutorial"}


def run(command: str, folder: Path) -> str:
    """Run the lines of a block as a person would type them; return what they print."""
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": programs, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(
        ("bash", "-euo", "pipefail", "-c", command),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_of_the_page_is_run_or_said_to_need_more() -> None:
    text = PAGE.read_text(encoding="utf-8")
    plain = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = {line.partition("#")[0].strip() for block in plain for line in block.splitlines()}
    assert lines == NEEDS_A_CLUSTER | BEFORE
    assert text.count("```") == 2 * (len(BLOCK.findall(text)) + len(plain))


@pytest.mark.slow
def test_the_tutorial_works(tmp_path: Path) -> None:
    printed: dict[str, str] = {}
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"], encoding="utf-8")
        else:
            printed[block["text"]] = run(block["text"], tmp_path)
    output = "".join(printed.values())
    last = json.loads((tmp_path / "runs/books/metrics.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["phase"]) == (60, "main")
    assert last["train/lm_loss"] < 7.0  # of the uniform distribution over 2,048 ids: 7.62
    assert "resuming books from runs/books/checkpoints/step_0000030 (step 30)" in output
    assert "proven: logits through megatron-core and transformers" in output
    assert (tmp_path / "exported/books/model.safetensors").is_file()
    assert "ready to launch: 2 nodes, 16 ranks" in output
    assert "--nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --time=2:00:00" in output
    assert not (tmp_path / "runs/books-cluster").exists()  # a dry run queues and writes nothing
