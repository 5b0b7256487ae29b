"""The Python packages of a visit to a GPU: which are missing there, how they are carried, and where they are installed.

The environment of the machine stays as it is: its torch above all. What it lacks goes into a folder of the checkout,
which stands before it on the path. `constraints.txt` says the versions.

    python tests/visit/gpu_packages.py [FOLDER [NAME...]]      fetches the wheels to carry (`make gpu-wheels`)

Names are fetched beside those that most machines lack.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / ".gpu" / "wheels"

CARRIED = ("megatron-core", "pydantic", "pydantic_core", "annotated-types", "typing-inspection")
"""What images with torch for GPUs lack, as a rule."""
GROUPS: tuple[tuple[str, ...], ...] = (
    ("megatron-core",),
    ("pydantic", "pydantic_core", "annotated-types", "typing-inspection"),
    ("typing_extensions",),
    ("numpy",),
    ("packaging",),
    ("psutil",),
    ("click",),
    ("PyYAML",),
    ("rich", "markdown-it-py", "mdurl", "Pygments"),
    ("xxhash",),
    ("pytest", "pluggy", "iniconfig"),
    ("pytest-timeout",),
    ("hypothesis", "sortedcontainers"),
)
"""What a visit needs beside torch. If one of a group is missing, the whole group is installed: they fit together."""
EXACT = {"megatron-core"}
"""Packages of which no other version will do; of the rest, what is there is taken."""

WHEELS_FOR = ("3.12", ("2_28", "2_27", "2_17"))
"""Python of the wheels, and versions of glibc: pip matches each name exactly."""


class VisitError(Exception):
    """The visit cannot begin; the message is one line for the user."""


def pins(constraints: str, python: tuple[int, int]) -> dict[str, str]:
    """Return the version of every package, for this Python."""
    found = {}
    for line in constraints.splitlines():
        requirement, _, marker = line.partition(";")
        name, equals, version = requirement.strip().partition("==")
        if not equals or name.startswith("#"):
            continue
        limit = re.search(r'python_version\s*(<|>=)\s*"(\d+)\.(\d+)"', marker)
        older = limit is None or python < (int(limit[2]), int(limit[3]))
        if limit is None or (limit[1] == "<") == older:
            found[name] = version
    return found


def missing(pinned: Mapping[str, str], site: Path) -> list[str]:
    """Return the packages that this Python lacks, with `site` before its own, as requirements."""
    there = {_normal(each.name): each.version for each in metadata.distributions(path=[*sys.path, str(site)])}
    there |= {_normal(each.name): each.version for each in metadata.distributions(path=[str(site)])}

    def serves(name: str) -> bool:
        version = there.get(_normal(name))
        return version is not None and (name not in EXACT or version == pinned[name])

    return [f"{name}=={pinned[name]}" for group in GROUPS if not all(map(serves, group)) for name in group]


def install(requirements: Sequence[str], wheels: Path, site: Path) -> None:
    """Install them into `site`: from the folder of wheels if there is one, from the package index otherwise.

    Raises:
        VisitError: Wheels are missing, or pip fails.
    """
    if not requirements:
        return
    source = ["--retries", "1", "--timeout", "15"]
    if wheels.is_dir():
        absent = [each for each in requirements if not _wheel(each, wheels)]
        if absent:
            raise VisitError(
                f"{wheels} has no wheel of {', '.join(absent)}: run `make gpu-wheels` where there is a package index, "
                "and carry the folder here; or remove it to install from an index"
            )
        source = ["--no-index", "--find-links", str(wheels)]
    command = ["install", "--no-deps", "--no-compile", "--upgrade", "--target", str(site), *source, *requirements]
    last = _pip(command)
    if last:
        raise VisitError(
            f"pip cannot install {', '.join(requirements)}: {last}; without a package index run `make gpu-wheels` "
            f"where there is one, and carry {wheels} here"
        )


def download(folder: Path, names: Sequence[str] = CARRIED) -> list[Path]:
    """Fetch the wheels of these packages for a GPU machine; they take the place of what was there.

    Raises:
        VisitError: `constraints.txt` has no version of one, or pip does not find it, or reaches no index.
    """
    python, glibcs = WHEELS_FOR
    major, minor = map(int, python.split("."))
    pinned = pins((ROOT / "constraints.txt").read_text(), (major, minor))
    if unknown := [name for name in names if name not in pinned]:
        raise VisitError(f"constraints.txt has no version of {', '.join(unknown)}: spell the names as it does")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    platforms = [f"--platform=manylinux_{glibc}_x86_64" for glibc in glibcs]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    command = ["download", "--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    last = _pip([*command, *platforms, "--dest", str(folder), *(f"{name}=={pinned[name]}" for name in names)])
    if last:
        raise VisitError(f"pip cannot fetch the wheels: {last}")
    return sorted(folder.glob("*.whl"))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _wheel(requirement: str, folder: Path) -> bool:
    name, _, version = requirement.partition("==")
    return any(_normal(each.name).startswith(_normal(f"{name}-{version}-")) for each in folder.glob("*.whl"))


def _pip(arguments: Sequence[str]) -> str:
    """Return the last line of pip's errors if it fails, and nothing if it succeeds."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(("WARNING", "DEPRECAT"))]
    return (lines or [f"it ends with {done.returncode}"])[-1].removeprefix("ERROR: ")


def main(arguments: Sequence[str]) -> int:
    """Fetch the wheels and say how large they are."""
    folder = Path(arguments[0]) if arguments else WHEELS
    try:
        wheels = download(folder, (*CARRIED, *arguments[1:]))
    except VisitError as error:
        sys.stderr.write(f"{error}\n")
        return 64
    size = sum(wheel.stat().st_size for wheel in wheels)
    sys.stdout.write(f"{len(wheels)} wheels, {size / 1e6:.1f} MB, in {folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
