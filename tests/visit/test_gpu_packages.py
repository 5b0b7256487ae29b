"""The packages of a visit to a GPU: which are missing, and what is said where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import gpu_packages
import pytest
from gpu_packages import CARRIED, GROUPS, ROOT, VisitError, install, main, missing, pins

CONSTRAINTS = """\
# versions
click==8.5.1
megatron-core==0.16.1; python_version < "3.12"
megatron-core==0.19.2; python_version >= "3.12"
torch==2.13.0
"""


@pytest.mark.parametrize(("python", "version"), [((3, 11), "0.16.1"), ((3, 12), "0.19.2"), ((3, 13), "0.19.2")])
def test_pins_are_those_of_the_python(python: tuple[int, int], version: str) -> None:
    assert pins(CONSTRAINTS, python) == {"click": "8.5.1", "megatron-core": version, "torch": "2.13.0"}


def test_every_package_has_a_version() -> None:
    pinned = pins((ROOT / "constraints.txt").read_text(), (3, 12))
    assert {name for group in GROUPS for name in group} <= set(pinned)
    assert set(CARRIED) <= {name for group in GROUPS for name in group}


def distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_only_what_is_missing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, site = tmp_path / "theirs", tmp_path / "site"
    pinned = {name: "2.0" for group in GROUPS for name in group}
    for name in pinned:
        distribution(theirs, name, "1.0")
    monkeypatch.setattr(gpu_packages.sys, "path", [str(theirs)])
    assert missing(pinned, site) == ["megatron-core==2.0"]  # of the others any version will do
    distribution(site, "megatron_core", "2.0")  # the spelling of a name says nothing
    assert missing(pinned, site) == []


def test_a_group_is_installed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = {name: "2.0" for group in GROUPS for name in group}
    for name in pinned:
        if name != "pydantic_core":
            distribution(tmp_path / "theirs", name, "2.0")
    monkeypatch.setattr(gpu_packages.sys, "path", [str(tmp_path / "theirs")])
    wanted = ["pydantic==2.0", "pydantic_core==2.0", "annotated-types==2.0", "typing-inspection==2.0"]
    assert missing(pinned, tmp_path / "site") == wanted


def test_a_missing_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "click-8.5.1-py3-none-any.whl").touch()
    with pytest.raises(VisitError) as error:
        install(["click==8.5.1", "megatron-core==0.19.2"], tmp_path, tmp_path / "site")
    assert str(error.value) == (
        f"{tmp_path} has no wheel of megatron-core==0.19.2: run `make gpu-wheels` where there is a package index, and "
        "carry the folder here; or remove it to install from an index"
    )


def test_what_pip_says_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_packages, "_pip", lambda arguments: "No matching distribution found for click==8.5.1")
    with pytest.raises(VisitError) as error:
        install(["click==8.5.1"], tmp_path / "none", tmp_path / "site")
    assert str(error.value) == (
        "pip cannot install click==8.5.1: No matching distribution found for click==8.5.1; without a package index run "
        f"`make gpu-wheels` where there is one, and carry {tmp_path / 'none'} here"
    )


def test_nothing_missing_asks_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_packages, "_pip", lambda arguments: pytest.fail("pip was called"))
    install([], tmp_path, tmp_path / "site")


def test_wheels_are_fetched_with_the_pinned_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old-1.0-py3-none-any.whl").touch()

    def fetch(arguments: list[str]) -> str:
        assert arguments[-5] == "megatron-core==0.19.2"
        assert "--python-version" in arguments
        (tmp_path / "megatron_core-0.19.2-py3-none-any.whl").write_bytes(b"x" * 2_400_000)
        return ""

    monkeypatch.setattr(gpu_packages, "_pip", fetch)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"1 wheels, 2.4 MB, in {tmp_path}\n"


def test_without_an_index_no_wheels_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_packages, "_pip", lambda arguments: "no index")
    assert main([str(tmp_path)]) == 64
    assert capsys.readouterr().err == "pip cannot fetch the wheels: no index\n"


def test_a_name_without_a_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "rich", "cilck"]) == 64
    assert capsys.readouterr().err == "constraints.txt has no version of cilck: spell the names as it does\n"


def test_the_last_line_of_pip_is_its_reason() -> None:
    assert gpu_packages._pip(["install", "--no-index", "--dry-run", "no-such-package-of-ours"]) == (
        "No matching distribution found for no-such-package-of-ours"
    )
