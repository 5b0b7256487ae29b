"""The pretended GPU: where it can be built, torch works on it; where it cannot, one line says why."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import fakegpu
import fakegpu_build
import pytest
import torch

HERE = Path(__file__).parent

needs_cuda_build = pytest.mark.skipif(
    torch.version.cuda is None, reason=f"torch {torch.__version__} is not a build with CUDA"
)

PROGRAM = """
import torch
print(torch.cuda.get_device_name())
x = torch.randn(256, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
(x @ x).relu().sum().backward()
print(tuple(x.grad.shape))
print(torch.arange(3).cuda().cpu().tolist())
heads = torch.randn(1, 2, 64, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True).sum().backward()
before = torch.cuda.memory_allocated()
large = torch.empty(40 << 30, dtype=torch.uint8, device="cuda")
print((torch.cuda.memory_allocated() - before) >> 30, "GiB")
try:
    torch.empty(40 << 30, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError:
    print("full")
"""


def run_pretended(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "fakegpu.py"), sys.executable, "-c", program]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=200, check=False)


@needs_cuda_build
@pytest.mark.parametrize("allocator", ["", "expandable_segments:True"], ids=["blocks", "expandable"])
def test_torch_runs_on_it_and_its_memory_ends(allocator: str) -> None:
    done = run_pretended(PROGRAM, PYTORCH_ALLOC_CONF=allocator)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["pretended NVIDIA H100 80GB HBM3", "(256, 256)", "[0, 1, 2]", "40 GiB", "full"]


@needs_cuda_build
def test_a_program_that_hides_gpus_sees_none() -> None:
    done = run_pretended("import torch; print(torch.cuda.is_available())", CUDA_VISIBLE_DEVICES="")
    assert done.stdout == "False\n", done.stderr


@needs_cuda_build
def test_a_launch_that_no_device_could_make_is_refused() -> None:
    program = """
import ctypes, torch
class Size(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint) for name in "xyz"]
launch = ctypes.CDLL(None).cudaLaunchKernel
launch.argtypes = [ctypes.c_void_p, Size, Size, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
for num_threads in (1024, 2048):
    print(launch(None, Size(1, 1, 1), Size(num_threads, 1, 1), None, 0, None))
"""
    assert run_pretended(program).stdout.splitlines() == ["0", "9"]


@needs_cuda_build
def test_it_is_built_once(tmp_path: Path) -> None:
    folder = fakegpu_build.build(tmp_path)
    assert {each.name for each in folder.iterdir()} >= {"libpretended.so", "libcuda.so.1", "libcuda.so", "nvidia-smi"}
    written = (folder / "libpretended.so").stat().st_mtime_ns
    assert fakegpu_build.build(tmp_path) == folder
    assert (folder / "libpretended.so").stat().st_mtime_ns == written


@needs_cuda_build
def test_without_a_compiler_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        fakegpu_build.FakeGpuError, match="^the pretended GPU needs a C compiler, and there is no gcc on the PATH$"
    ):
        fakegpu_build.build(tmp_path / "cache")


@needs_cuda_build
def test_what_the_compiler_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\necho 'x.c:1: error: no' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fakegpu_build.FakeGpuError, match=r"cannot build the pretended GPU: x\.c:1: error: no$"):
        fakegpu_build.build(tmp_path / "cache")


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is a build with CUDA")
def test_a_torch_without_cuda_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert fakegpu.main(["true"]) == 64
    assert (
        capsys.readouterr().err
        == f"the pretended GPU needs a build of torch with CUDA, and torch {torch.__version__} is not\n"
    )


def test_a_python_without_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakegpu_build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(fakegpu_build.FakeGpuError, match="^the pretended GPU needs torch, and this Python has none$"):
        fakegpu_build.cuda_headers()


def test_a_missing_header_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakegpu_build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(fakegpu_build.FakeGpuError, match="needs cuda.h, and the package triton here has none"):
        fakegpu_build._header("triton", "backends/nvidia/include/cuda.h")


def test_nothing_to_run_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert fakegpu.main([]) == 64
    assert capsys.readouterr().err == "usage: python tests/fakegpu/fakegpu.py COMMAND...\n"


def test_the_environment_adds_to_what_is_there(tmp_path: Path) -> None:
    seen = fakegpu.environment(tmp_path, {"PATH": "/bin", "PYTHONPATH": "/x"})
    assert seen["PATH"] == f"{tmp_path}:/bin"
    assert seen["PYTHONPATH"] == f"{HERE / 'site'}:/x"
    assert seen["LD_LIBRARY_PATH"] == str(tmp_path)


def test_what_it_changes_in_harness_is_there() -> None:
    """A method that was renamed would be changed in vain, and the rehearsal would fail far from here."""
    pytest.importorskip("megatron.core")
    pipeline = importlib.import_module("harness.train.components.mcore")
    optimizer = importlib.import_module("harness.optim.mcore")
    assert set(pipeline.Totals.__dataclass_fields__) == {
        "loss_sums",
        "num_tokens",
        "flags",
        "experts",
        "further_tokens",
    }
    assert list(inspect.signature(pipeline.Pipeline.read).parameters) == ["self", "sums", "numbers"]
    assert list(inspect.signature(optimizer.Optimizer.state_norms).parameters) == ["self"]
