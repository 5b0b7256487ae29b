"""The visit itself where there is no GPU, and the interpreter of its rehearsal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gpu_dry
import gpu_visit
import pytest
import torch
from gpu_packages import ROOT
from gpu_visit import CALL_LIMIT_S, environment_with, look, main, parts_of


@pytest.mark.parametrize("what", ["bench", "tests", "long", "saves"])
def test_each_call_ends_within_six_minutes(what: str, tmp_path: Path) -> None:
    assert CALL_LIMIT_S < 360
    assert sum(part.limit_s for part in parts_of(what, tmp_path, 1.0)) <= CALL_LIMIT_S + 10


def test_the_parts_of_all_are_those_of_each(tmp_path: Path) -> None:
    names = [part.name for part in parts_of("all", tmp_path, 2.0)]
    assert names == [
        "machine",
        "llama3.2-1b",
        "llama3-8b-8-layers",
        "kernels",
        "runs",
        "long-samples",
        "llama3.2-1b-32k",
        "saves",
    ]


def test_the_benchmark_ends_before_its_limit_strikes(tmp_path: Path) -> None:
    for part in parts_of("bench", tmp_path, 1.0)[1:]:
        seconds = float(part.command[part.command.index("--seconds") + 1])
        assert 60.0 < seconds <= part.limit_s - gpu_visit.SECONDS_TO_PROFILE


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["bench"]) == 64
    assert capsys.readouterr().err == (
        f"torch {torch.__version__} of {sys.executable} sees no GPU, so nothing is measured; `make gpu-dry` runs all "
        "of this on a pretended one\n"
    )


def interpreter(folder: Path, program: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    return path


def test_a_python_without_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = interpreter(tmp_path, "echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1")
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(gpu_visit.VisitError) as error:
        look()
    assert str(error.value) == (
        f"{python} cannot load torch (ModuleNotFoundError: No module named 'torch'): name a Python that can, "
        "`make gpu PYTHON=...`"
    )


def test_the_gpu_and_torch_are_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = interpreter(tmp_path, 'echo a warning; echo \'{"torch": "2.11.0", "gpu": "NVIDIA H100"}\'')
    monkeypatch.setattr(sys, "executable", str(python))
    assert look() == {"torch": "2.11.0", "gpu": "NVIDIA H100"}


def test_packages_of_the_visit_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    seen = environment_with(tmp_path)
    assert seen["PYTHONPATH"] == f"{tmp_path}:{ROOT}:/theirs"
    assert (seen["NCCL_SOCKET_IFNAME"], seen["GLOO_SOCKET_IFNAME"]) == ("eth0", "lo")


def test_the_rehearsal_takes_the_python_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_PYTHON", "/opt/torch/bin/python")
    assert gpu_dry.python_with_cuda() == "/opt/torch/bin/python"


def test_the_rehearsal_takes_its_own_python_if_it_has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPU_PYTHON", raising=False)
    monkeypatch.setattr(gpu_dry, "has_cuda_build", lambda: True)
    assert gpu_dry.python_with_cuda() == sys.executable


def test_whether_torch_has_cuda_is_seen_without_loading_it() -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests/visit'); import gpu_dry; found = gpu_dry.has_cuda_build(); "
        "sys.exit('torch was loaded') if 'torch' in sys.modules else print(found)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{torch.version.cuda is not None}\n"


def test_the_rehearsal_says_that_gigabytes_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], *, check: bool) -> None:
        commands.append(command)
        if command[1:3] == ["-m", "pip"]:
            raise subprocess.CalledProcessError(1, command)
        (tmp_path / ".venv-gpu").mkdir()

    monkeypatch.delenv("GPU_PYTHON", raising=False)
    monkeypatch.setattr(gpu_dry, "ROOT", tmp_path)
    (tmp_path / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
    monkeypatch.setattr(gpu_dry, "has_cuda_build", lambda: False)
    monkeypatch.setattr(gpu_dry.subprocess, "run", run)
    assert gpu_dry.main([]) == 64
    shown = capsys.readouterr()
    assert shown.out == (
        f"{sys.executable} has no torch with CUDA: .venv-gpu is made, and gigabytes are fetched for it\n"
    )
    pip = f"{tmp_path}/.venv-gpu/bin/python -m pip install"
    assert shown.err == f".venv-gpu cannot be made: `{pip} ...` ended with 1\n"
    assert commands[0][1:3] == ["-m", "venv"]
    assert any(each.startswith("torch==") for each in commands[1])
    assert not any(each.startswith("megatron-core") for each in commands[1])


def test_the_rehearsal_has_a_bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def execve(program: str, arguments: list[str], environment: dict[str, str]) -> None:
        seen.update(program=program, arguments=arguments, environment=environment)

    monkeypatch.setenv("GPU_PYTHON", "/opt/python")
    monkeypatch.setenv("SOMETHING", "else")
    monkeypatch.setattr(gpu_dry.os, "execve", execve)
    gpu_dry.main(["bench"])
    assert seen["program"] == "/opt/python"
    assert seen["environment"] == {"PATH": os.environ["PATH"], "HOME": str(Path.home())}
    assert str(ROOT / "tests/fakegpu/fakegpu.py") in seen["arguments"]  # type: ignore[operator]
