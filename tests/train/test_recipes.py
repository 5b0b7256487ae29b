"""Follows the recipes of docs/recipes: applies their code to a copy of the packages, and uses what it adds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from process_runs import REPOSITORY, Site
from source_rules import MAX_FILE_LINES

from harness.errors import EXIT_USAGE

pytestmark = pytest.mark.slow

RECIPES = REPOSITORY / "docs" / "recipes"
BLOCK = re.compile(
    r"^```(?:python new=(?P<new>\S+)|diff\n--- (?P<file>\S+)\n@@.*?)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
CLAIM = re.compile(r"\b(Two|Three) files change\b")
NUMBERS = {"Two": 2, "Three": 3}


def follow(page: str, folder: Path) -> None:
    """Apply the code of a page to a copy of the packages, which must then be as short and as clean as ours.

    The page must touch as many files as it says.
    """
    for package in ("harness", "checkpoint_tools", "data_prep"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    text = (RECIPES / page).read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert len(re.findall(r"^```(?:python|diff)", text, re.MULTILINE)) == len(blocks)
    for block in blocks:
        if block["new"]:
            assert not (folder / block["new"]).exists()
            (folder / block["new"]).write_text(block["text"])
            continue
        for hunk in re.split(r"^@@.*\n", block["text"], flags=re.MULTILINE):
            change(folder / block["file"], hunk.splitlines())
    touched = sorted({block["new"] or block["file"] for block in blocks})
    claimed = CLAIM.search(text)
    assert claimed is not None
    assert len(touched) == NUMBERS[claimed[1]]
    for name in touched:
        assert len((folder / name).read_text().splitlines()) <= MAX_FILE_LINES, name
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    for command in (("check",), ("format", "--check")):
        ruff([*command, "--no-cache", *touched], folder)


def change(path: Path, lines: list[str]) -> None:
    """Apply a hunk, which must fit at exactly one place: lines begin with a space, a minus or a plus."""
    assert {line[:1] for line in lines} <= {" ", "-", "+", ""}
    old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
    new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
    source = path.read_text()
    assert source.count(old) == 1, f"{path}:\n{old}"
    path.write_text(source.replace(old, new))


def ruff(arguments: list[str], folder: Path) -> None:
    command = [sys.executable, "-m", "ruff", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def harness(package: Path, *arguments: str, code: int = 0) -> str:
    """Run a command of the copy; return what it prints."""
    command = [sys.executable, "-m", "harness.cli", *arguments]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def small_site(folder: Path) -> Site:
    site = Site(folder)
    site.config["phases"][0]["train_steps"] = 3
    return site


def train(site: Site, package: Path, *arguments: str) -> str:
    path = {} if package == REPOSITORY else {"PYTHONPATH": str(package)}
    command = site.train(*arguments, environment=path, folder=package)
    code, text = command.finish()
    assert code == 0, text
    return text


def losses_of(folder: Path, package: Path, *settings: str) -> list[float]:
    site = small_site(folder)
    train(site, package, *settings)
    return [record.values["train/lm_loss"] for record in site.records()]


def test_a_model_option(tmp_path: Path) -> None:
    package = tmp_path / "package"
    follow("model_option.md", package)
    plain = losses_of(tmp_path / "plain", REPOSITORY)
    default = losses_of(tmp_path / "default", package, "--set", "model.embedding_multiplier=1.0")
    other = losses_of(tmp_path / "other", package, "--set", "model.embedding_multiplier=2.0")
    assert default == pytest.approx(plain, rel=1e-6)
    assert other[0] != pytest.approx(plain[0], rel=1e-6)
    checkpoint = tmp_path / "other/run/checkpoints/step_0000003"
    refusal = harness(package, "convert", "to-hf", str(checkpoint), str(tmp_path / "theirs"), code=EXIT_USAGE)
    assert "llama: model.embedding_multiplier is 2.0, the family has None" in refusal


def test_a_sink(tmp_path: Path) -> None:
    package = tmp_path / "package"
    follow("sink.md", package)
    site = small_site(tmp_path / "site")
    train(site, package)
    expected = [f"{record.step} {record.values['train/lm_loss']}" for record in site.records()]
    assert [line.partition(" ")[0] for line in expected] == ["1", "2", "3"]
    assert (site.run_dir.root / "losses.txt").read_text().splitlines() == expected


def test_a_command(tmp_path: Path) -> None:
    package = tmp_path / "package"
    follow("command.md", package)
    site = small_site(tmp_path / "site")
    train(site, package, "--set", "run.stop_at_step=1")
    harness(package, "signal", str(site.run_dir.root), "note", "--reason", "new cables")
    assert "note: new cables" in train(site, package)
    assert [each["kind"] for each in site.acknowledgements()] == ["note"]


def test_a_hugging_face_family(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    package, theirs, ours, back = (tmp_path / name for name in ("package", "theirs", "ours", "back"))
    follow("hugging_face_family.md", package)
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformers.SeedOssForCausalLM(transformers.SeedOssConfig(**sizes, **heads))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they begin as zeros
            parameter.data.normal_(generator=torch.Generator().manual_seed(3))
    model.save_pretrained(theirs)
    assert "proven" in harness(package, "convert", "from-hf", str(theirs), str(ours))
    (checkpoint,) = (ours / "checkpoints").iterdir()
    to_hf = ("convert", "to-hf", str(checkpoint), str(back), "--family", "seed_oss", "--without-tokenizer")
    assert "proven" in harness(package, *to_hf)
    assert ", 0 differences" in harness(package, "convert", "check", str(theirs), str(back))
