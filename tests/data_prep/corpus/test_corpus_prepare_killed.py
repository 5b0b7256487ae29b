"""`harness data prepare` that is killed: the same command goes on, and ends with what an undisturbed one makes."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gated import TEXT, TOKENS, halted
from prepared_corpora import results_in, write_corpus, write_raw

pytest.importorskip("datatrove")
pytest.importorskip("rensa")

from harness.cli import run

PREPARE = ("data", "prepare", "--config", "corpus.yaml", "--replace-channels", "--accept-loss")
PUBLISH = "harness.sole_writer:SoleWriter:publish"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Path:
    """A corpus whose rule has changed since it was made, and one of the same that was made with the new rule."""
    folder = tmp_path_factory.mktemp("made")
    for name, presets in (("changed", ("light", "prose")), ("whole", ("prose",))):
        (folder / name).mkdir()
        write_raw(folder / name)
        for preset in presets:
            write_corpus(folder / name, model_file, preset=preset)
            if preset == presets[0]:
                prepare(folder / name)
    return folder


@pytest.fixture
def corpora(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The first of them as a copy."""
    shutil.copytree(made / "changed", tmp_path / "changed")
    return tmp_path / "changed", made / "whole"


def prepare(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run([*PREPARE]) == 0


@pytest.mark.parametrize(("after", "at"), [*((PUBLISH, at) for at in (1, 2, 5, 6, 7)), (TEXT, 100), (TOKENS, 3)])
def test_a_kill_where_folders_are_replaced(
    corpora: tuple[Path, Path], after: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, whole = corpora
    monkeypatch.chdir(changed)
    with halted(changed, *PREPARE, at=at, after=after) as stopped:
        stopped.process.kill()
        stopped.process.wait()
    prepare(changed)
    assert results_in(changed) == results_in(whole)
    assert not list(changed.rglob(".set-aside*"))


@pytest.mark.slow
def test_kills_at_any_time(corpora: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    changed, whole = corpora
    monkeypatch.chdir(changed)
    generator, kills = random.Random(5), 0
    command = [sys.executable, "-m", "harness.cli", *PREPARE]
    # The first ones are hardly begun, the last ones nearly done.
    for attempt in range(10):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(0.4 + attempt * 0.2 + generator.uniform(0, 0.2))
            kills += process.poll() is None
            process.kill()
    assert kills >= 2
    prepare(changed)
    assert results_in(changed) == results_in(whole)
    assert run(["data", "verify", "data"]) == 0
