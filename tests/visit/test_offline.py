"""A machine that reaches no index: its Python has torch, a folder has the few wheels, and a run saves.

The Python is a new environment that sees the packages of this one, all but those that are carried, and not harness.
The wheels are packed from what is installed here, so that the test needs no index either.
"""

from __future__ import annotations

import json
import subprocess
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from gpu_packages import CARRIED, ROOT

from benchmarks.corpus import write_channel
from harness.run.paths import RunDir
from harness.version import VERSION

CONFIG: dict[str, Any] = {
    "run": {"name": "offline"},
    "model": {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "ffn_hidden_size": 64,
        "vocab_size": 256,
    },
    "phases": [
        {"name": "main", "train_steps": 2, "seq_length": 16, "global_batch_size": 4, "blend": {"text": 1}},
    ],
    "optimizer": {"learning_rate": 1e-3},
    "precision": {"dtype": "fp32"},
    "evaluation": {"held_out_share": 0.0},
    "logging": {"tensorboard": False},
}


def pack(name: str, folder: Path) -> Path:
    """A wheel of an installed package."""
    package = metadata.distribution(name)
    tag = next(line for line in (package.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: "))
    wheel = folder / f"{name.replace('-', '_')}-{package.version}-{tag.removeprefix('Tag: ')}.whl"
    inside = [each for each in package.files or () if ".." not in each.parts and each.suffix != ".pyc"]
    with zipfile.ZipFile(wheel, "w") as archive:
        for each in inside:
            if each.name != "RECORD":
                archive.write(str(each.locate()), str(each))
        record = next(each for each in inside if each.name == "RECORD")
        archive.writestr(str(record), "".join(f"{each},,\n" for each in inside))
    return wheel


def bare_python(folder: Path) -> Path:
    """The interpreter of an environment with all packages of this one, but those that are carried and harness."""
    venv.create(folder, with_pip=True)
    version = sysconfig.get_python_version()
    there = folder / "lib" / f"python{version}" / "site-packages"
    carried = {str(each).split("/")[0] for name in CARRIED for each in metadata.distribution(name).files or ()}
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        ours = entry.name in carried or "harness" in entry.name or entry.suffix == ".pth"
        if not ours and not (there / entry.name).exists():
            (there / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


@pytest.mark.slow
def test_a_bare_machine_installs_from_wheels_and_a_run_saves(tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    for name in CARRIED:
        pack(name, wheels)
    python = bare_python(tmp_path / "environment")
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PIP_NO_INDEX": "1"}

    def run(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), *arguments]
        environment = bare | {"PYTHONPATH": path}
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "No module named 'megatron'" in run("-c", "import megatron.core", path=str(ROOT)).stderr
    prepare = (
        f"from pathlib import Path; from gpu_visit import prepare; prepare(Path({str(wheels)!r}), Path({str(site)!r}))"
    )
    installed = run("-c", prepare, path=str(ROOT / "tests/visit"))
    assert installed.returncode == 0, installed.stderr
    assert list((site / "megatron/core/__pycache__").glob("*.pyc")), (
        "a first import would warn, and a warning is an error"
    )

    write_channel(tmp_path / "text", vocab_size=256, num_tokens=2_000, seed=0)
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(CONFIG | {"data": {"channels": {"text": {"path": str(tmp_path / "text")}}}}))
    trained = run("-m", "harness.cli", "train", str(config), "--run-dir", str(tmp_path / "run"), path=f"{site}:{ROOT}")
    assert trained.returncode == 0, trained.stderr
    manifest = json.loads((RunDir(tmp_path / "run").checkpoints / "step_0000002" / "manifest.json").read_text())
    assert manifest["versions"]["harness"] == VERSION
    assert manifest["versions"]["megatron_core"] == metadata.version("megatron-core")
