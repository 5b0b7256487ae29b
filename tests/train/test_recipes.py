"""Follows the recipes of docs/recipes: applies their code to a copy of the packages, and uses what it adds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from process_runs import REPOSITORY, Site

pytestmark = pytest.mark.slow

RECIPES = REPOSITORY / "docs" / "recipes"
BLOCK = re.compile(
    r'^```python (?:new=(?P<new>\S+)|in=(?P<file>\S+) before="(?P<before>(?:[^"\\]|\\.)*)")\n(?P<text>.*?)^```$',
    re.DOTALL | re.MULTILINE,
)


def follow(page: str, folder: Path) -> set[str]:
    """Apply the code of a page to a copy of the packages; return the files that it touches."""
    for package in ("harness", "checkpoint_tools", "data_prep"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    text = (RECIPES / page).read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert text.count("```python") == len(blocks) > 0
    for block in blocks:
        if block["new"]:
            (folder / block["new"]).write_text(block["text"])
            continue
        before, path = block["before"].replace('\\"', '"'), folder / block["file"]
        source = path.read_text()
        assert source.count(before) == 1, f"{path}: {before}"
        path.write_text(source.replace(before, block["text"] + before))
    return {block["new"] or block["file"] for block in blocks}


def small_site(folder: Path) -> Site:
    site = Site(folder)
    site.config["phases"][0]["train_steps"] = 3
    return site


def train(site: Site, package: Path, *arguments: str) -> str:
    command = site.train(*arguments, environment={"PYTHONPATH": str(package)}, folder=package)
    code, text = command.finish()
    assert code == 0, text
    return text


def losses_of(folder: Path, package: Path, *settings: str) -> list[float]:
    site = small_site(folder)
    train(site, package, *settings)
    return [record.values["train/lm_loss"] for record in site.records()]


def test_a_model_option(tmp_path: Path) -> None:
    assert len(follow("model_option.md", tmp_path / "package")) == 2
    losses = []
    # Heads of 8: the default factor is 1 / sqrt(8).
    for name, settings in (("plain", ()), ("default", ("--set", "model.softmax_scale=0.35355339059327373"))):
        losses.append(losses_of(tmp_path / name, tmp_path / "package", *settings))
    losses.append(losses_of(tmp_path / "other", tmp_path / "package", "--set", "model.softmax_scale=2.0"))
    plain, default, other = losses
    assert default == pytest.approx(plain, rel=1e-6)
    assert other[0] != pytest.approx(plain[0], rel=1e-6)


def test_a_sink(tmp_path: Path) -> None:
    assert len(follow("sink.md", tmp_path / "package")) == 2
    site = small_site(tmp_path / "site")
    train(site, tmp_path / "package")
    expected = [f"{record.step} {record.values['train/lm_loss']}" for record in site.records()]
    assert (site.run_dir.root / "losses.txt").read_text().splitlines() == expected


def test_a_command(tmp_path: Path) -> None:
    assert len(follow("command.md", tmp_path / "package")) == 3
    site = small_site(tmp_path / "site")
    train(site, tmp_path / "package", "--set", "run.stop_at_step=1")
    given = subprocess.run(
        [sys.executable, "-m", "harness.cli", "signal", str(site.run_dir.root), "note", "--reason", "new cables"],
        cwd=tmp_path / "package",
        capture_output=True,
        text=True,
        check=False,
    )
    assert given.returncode == 0, given.stderr
    assert "note: new cables" in train(site, tmp_path / "package")
    assert [each["kind"] for each in site.acknowledgements()] == ["note"]


def test_a_hugging_face_family(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    assert len(follow("hugging_face_family.md", tmp_path / "package")) == 2
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformers.SeedOssForCausalLM(transformers.SeedOssConfig(**sizes, **heads))
    model.save_pretrained(tmp_path / "theirs")
    converted = subprocess.run(
        [sys.executable, "-m", "harness.cli", "convert", "from-hf", str(tmp_path / "theirs"), str(tmp_path / "ours")],
        cwd=tmp_path / "package",
        capture_output=True,
        text=True,
        check=False,
    )
    assert converted.returncode == 0, converted.stdout + converted.stderr
    assert "proven" in converted.stdout
