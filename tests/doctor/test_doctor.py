"""What doctor says about machines of every kind, and how it looks at this one."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli
from harness.doctor import doctor_text as report
from harness.doctor import probe
from harness.doctor.facts import Facts, GpuFact, gather, installed_versions, run_probe
from harness.doctor.findings import Finding, findings
from harness.errors import EXIT_USAGE

GIB = 1 << 30
GOOD = Facts(
    python=(3, 11, 9),
    executable="/env/bin/python",
    versions={"torch": "2.13.0", "megatron-core": "0.16.1", "transformer-engine": "2.5", "apex": "0.1"},
    apex_is_nvidias=True,
    cuda="13.0",
    cudnn=91002,
    nccl="2.28.3",
    gpus=(GpuFact(name="NVIDIA H100", memory_bytes=80 * GIB),) * 8,
    num_cpu_cores=64,
    memory_bytes=512 * GIB,
    folder=Path("/work"),
    file_system="ext4",
    environment=Path("/env/lib"),
    environment_file_system="overlay",
    disk_free_bytes=1000 * GIB,
)


def without(*names: str) -> Facts:
    return replace(GOOD, versions={name: version for name, version in GOOD.versions.items() if name not in names})


def line(facts: Facts, name: str) -> tuple[str, str, str]:
    (finding,) = (each for each in findings(facts) if each.name == name)
    return finding.state, finding.found, finding.advice


def test_a_good_machine_has_nothing_but_ok() -> None:
    assert [each.state for each in findings(GOOD)] == ["ok"] * 14
    assert line(GOOD, "GPUs") == ("ok", "8 x NVIDIA H100, 80 GiB", "")
    assert line(GOOD, "disk") == ("ok", "1000.0 GiB free in /work (ext4)", "")


CPU_ONLY = "this torch was built without it: training runs on the CPU only"
TRAIN = "pip install 'harness[train]'"


@pytest.mark.parametrize(
    ("facts", "name", "expected"),
    [
        (
            replace(GOOD, python=(3, 10, 1)),
            "Python",
            ("wrong", "3.10.1 (/env/bin/python)", "use Python 3.11 or newer"),
        ),
        (
            without("torch"),
            "torch",
            ("missing", "not installed", f"no training here (plan, signal and schema work without it): {TRAIN}"),
        ),
        (
            replace(GOOD, errors={"torch": "libcudart.so.13: cannot open"}),
            "torch",
            ("wrong", "2.13.0: libcudart.so.13: cannot open", "install it again"),
        ),
        (
            replace(GOOD, errors={"probe": "importing torch ended the process with -11: no message"}),
            "torch",
            ("wrong", "2.13.0: importing torch ended the process with -11: no message", "install it again"),
        ),
        (without("megatron-core"), "megatron-core", ("missing", "not installed", f"no training here: {TRAIN}")),
        (
            replace(GOOD, errors={"megatron.core": "ImportError: x"}),
            "megatron-core",
            ("wrong", "0.16.1: ImportError: x", "install it again"),
        ),
        (
            replace(GOOD, python=(3, 12, 0)),
            "megatron-core",
            ("wrong", "0.16.1", f"tested with 0.19 on this Python: {TRAIN}"),
        ),
        (replace(GOOD, cuda=None), "CUDA", ("missing", "none", CPU_ONLY)),
        (replace(GOOD, cudnn=None), "cuDNN", ("missing", "none", CPU_ONLY)),
        (replace(GOOD, nccl=None), "NCCL", ("missing", "none", CPU_ONLY)),
        (
            replace(GOOD, gpus=()),
            "GPUs",
            ("missing", "none", "torch has CUDA but sees no GPU: does nvidia-smi list one, and is this a GPU node?"),
        ),
        (
            replace(GOOD, gpus=(), cuda=None),
            "GPUs",
            ("missing", "none", "CPU processes are for trying out and for tests"),
        ),
        (
            without("transformer-engine"),
            "Transformer Engine",
            (
                "missing",
                "not installed",
                "no fp8, and no ring between ranks that share samples; attention and kernels are torch's and ours",
            ),
        ),
        (
            replace(GOOD, errors={"transformer_engine.pytorch": "ImportError: undefined symbol"}),
            "Transformer Engine",
            (
                "wrong",
                "2.5: ImportError: undefined symbol",
                "build it against the installed torch, or uninstall it",
            ),
        ),
        (
            without("apex"),
            "apex",
            ("missing", "not installed", "fused kernels come from torch instead; nothing else is lost"),
        ),
        (
            replace(GOOD, versions={**GOOD.versions, "apex": "0.9.10.dev0"}, apex_is_nvidias=False),
            "apex",
            (
                "wrong",
                "0.9.10.dev0, not NVIDIA's Apex (no CUDA kernels)",
                "pip uninstall apex. PyPI's `apex` is an unrelated toolkit for the Pyramid web framework; "
                "NVIDIA's Apex is built from github.com/NVIDIA/apex, and is optional",
            ),
        ),
        (
            replace(GOOD, environment_file_system="lustre"),
            "packages",
            (
                "missing",
                "/env/lib (lustre)",
                "each rank reads it from there, 5,000 files: hundreds of nodes wait minutes for it at every start. Put "
                "it into an image (launch.container_image) or onto the disk of each node",
            ),
        ),
        (
            replace(GOOD, name_lookup_s=5.005),
            "names",
            (
                "missing",
                "the name of an address takes 5.005 s",
                "at a start rank 0 looks up the name behind the connection of every rank, one after the other: a "
                "thousand ranks wait 5,005 s. Put the nodes into /etc/hosts, or mend the name server",
            ),
        ),
        (
            replace(GOOD, disk_free_bytes=GIB, file_system=None),
            "disk",
            (
                "wrong",
                "1.0 GiB free in /work",
                "too little for checkpoints: free some, or give --run-dir elsewhere",
            ),
        ),
    ],
)
def test_every_line_says_what_is_lost_or_what_to_do(facts: Facts, name: str, expected: tuple[str, str, str]) -> None:
    assert line(facts, name) == expected


def test_newer_patch_of_the_tested_megatron_is_fine() -> None:
    facts = replace(GOOD, python=(3, 12, 0), versions={**GOOD.versions, "megatron-core": "0.19.3"})
    assert line(facts, "megatron-core") == ("ok", "0.19.3", "")


def test_this_machine_is_described() -> None:
    facts = gather(Path.cwd())
    assert facts.python == sys.version_info[:3]
    assert facts.num_cpu_cores >= 1 and facts.memory_bytes > 0 and facts.disk_free_bytes > 0
    assert "probe" not in facts.errors


def test_a_package_that_calls_itself_apex_is_told_from_nvidias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "apex-0.9.10.dev0.dist-info").mkdir()
    (tmp_path / "apex-0.9.10.dev0.dist-info" / "METADATA").write_text("Name: apex\nVersion: 0.9.10.dev0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_versions(("apex", "no-such-distribution")) == {"apex": "0.9.10.dev0"}
    monkeypatch.setattr("harness.doctor.facts.run_probe", dict)
    assert gather(tmp_path).apex_is_nvidias is False
    (tmp_path / "apex" / "optimizers").mkdir()
    (tmp_path / "amp_C.py").write_text("")
    assert gather(tmp_path).apex_is_nvidias is True


def test_a_probe_that_dies_is_an_error_with_its_last_words() -> None:
    program = "import sys; sys.stderr.write('first\\nlast words\\n'); sys.exit(3)"
    assert run_probe((sys.executable, "-c", program)) == {
        "errors": {"probe": "importing torch ended the process with 3: last words"}
    }


def test_a_probe_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.doctor.facts._PROBE_TIMEOUT_S", 0.05)
    program = "import threading; threading.Event().wait()"
    assert run_probe((sys.executable, "-c", program)) == {
        "errors": {"probe": "importing torch took longer than 0.05 s"}
    }


def test_a_broken_module_is_an_error_and_a_missing_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_one.py").write_text("raise OSError('libx.so: cannot open')")
    (tmp_path / "lacking_one.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    errors: dict[str, str] = {}
    for name in ("broken_one", "lacking_one", "no_such_module.part"):
        probe._imported(name, errors)
    assert errors == {
        "broken_one": "OSError: libx.so: cannot open",
        "lacking_one": "No module named 'no_such_dependency'",
    }


FOUND = [Finding(name="torch", state="ok", found="2.13"), Finding(name="apex", state="wrong", found="0.9", advice="go")]


def test_lines_for_a_pipe() -> None:
    assert report.as_lines(FOUND) == "torch  ok       2.13\napex   wrong    0.9 - go"


def test_json_for_a_script() -> None:
    assert json.loads(report.as_json(FOUND)) == {
        "healthy": False,
        "findings": [
            {"name": "torch", "state": "ok", "found": "2.13", "advice": ""},
            {"name": "apex", "state": "wrong", "found": "0.9", "advice": "go"},
        ],
    }


def test_table_for_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report.show_table(FOUND)
    shown = capsys.readouterr().out
    assert "torch" in shown and "0.9 - go" in shown


@pytest.mark.parametrize(
    ("facts", "exit_code"), [(without("apex"), 0), (replace(GOOD, apex_is_nvidias=False), EXIT_USAGE)]
)
def test_the_exit_code_says_whether_something_is_wrong(
    facts: Facts, exit_code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.doctor.facts.gather", lambda folder: facts)
    assert cli.run(["doctor"]) == exit_code
    assert "apex" in capsys.readouterr().out
    assert cli.run(["doctor", "--json"]) == exit_code
    assert json.loads(capsys.readouterr().out)["healthy"] is (exit_code == 0)
