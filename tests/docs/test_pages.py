"""The pages of docs: links lead somewhere, the index names all pages, and files that are named exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]*)\)")
PACKAGES = "harness|data_prep|checkpoint_tools|tests|benchmarks|slurm|docs|model_configs"
NAMED = re.compile(rf"`((?:{PACKAGES})[/.][\w./-]+)`")
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    kept = (heading.lower().replace(" ", "-") for heading in headings)
    return {"".join(letter for letter in heading if letter.isalnum() or letter in "-_") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}: no such heading"


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text())}
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs") and page != index}
    assert pages <= named


def test_the_table_of_extras_is_that_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) == set(extras)


def names_a_file(name: str) -> bool:
    """Whether a path, or a dotted name of a module or of something in it, is that of a file or folder here."""
    path = ROOT / name
    dotted = ROOT / name.replace(".", "/")
    return any(found.exists() for found in (path, path.with_name(f"{path.name}.py"), dotted)) or any(
        found.with_name(f"{found.name}.py").exists() for found in (dotted, dotted.parent)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = NAMED.findall(page.read_text(encoding="utf-8"))
    assert [name for name in named if not names_a_file(name)] == []


@pytest.mark.parametrize(
    ("name", "is_there"),
    [
        ("harness/train/main.py", True),
        ("harness/train", True),
        ("plan/plan", False),
        ("harness/plan/plan", True),
        ("harness.train.main", True),
        ("harness.config.phase_settings.in_phase", True),
        ("harness/train/gone.py", False),
        ("harness.gone.main", False),
    ],
)
def test_names_of_files_are_looked_up(name: str, is_there: bool) -> None:
    assert names_a_file(name) == is_there
