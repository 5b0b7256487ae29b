"""Every change to Megatron is in the table, and is still needed by the megatron-core that is installed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.parallel.megatron_changes import BOTH, CHANGES, replace

ROOT = Path(__file__).parents[2]
INSTALLED = ".".join(version("megatron-core").split(".")[:2])


@pytest.fixture(scope="module")
def probed() -> dict[str, bool]:
    """What Megatron and torch do in a process in which nothing is replaced."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("with a GPU Megatron's questions have answers")
    program = Path(__file__).with_name("megatron_probes.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_each_change_has_a_probe_of_its_own(probed: dict[str, bool]) -> None:
    places = [place for change in CHANGES for place in change.places]
    assert sorted(places) == sorted(probed)


@pytest.mark.skipif(INSTALLED not in BOTH, reason="a version that the table does not know")
def test_upstream_still_needs_exactly_these_changes(probed: dict[str, bool]) -> None:
    needed = {place for change in CHANGES if INSTALLED in change.versions for place in change.places}
    assert {place for place, is_needed in probed.items() if is_needed} == needed


def test_every_change_says_who_makes_it_and_why() -> None:
    for change in CHANGES:
        path = ROOT / Path(*change.made_in.split(".")).with_suffix(".py")
        text = path.read_text()
        assert all(f'"{name.rpartition(".")[2]}"' in text for name in change.names), change
        assert change.why.endswith(".")
        assert set(change.versions) <= set(BOTH)
        assert change.versions


def test_what_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"json\.dumps is not in the table of changes to Megatron"):
        replace(json, "dumps", None)
    with pytest.raises(AssertionError, match=r"types\.SimpleNamespace\.x is not in the table"):
        replace(SimpleNamespace, "x", None)
    with pytest.raises(AssertionError, match=r"types\.SimpleNamespace\.x is not in the table"):
        replace(SimpleNamespace(), "x", None)


def foreign_attributes_set(tree: ast.AST) -> Iterator[str]:
    """Attributes of what was imported from Megatron or torch that are assigned to, or set by name."""
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {(name.asname or name.name).split(".")[0] for name in node.names if is_foreign(name.name)}
        elif isinstance(node, ast.ImportFrom) and is_foreign(node.module or ""):
            imported |= {name.asname or name.name for name in node.names}
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            targets = [ast.Attribute(value=node.args[0], attr="?", ctx=ast.Store())]
        for target in targets:
            root: ast.expr = target
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(target, ast.Attribute) and isinstance(root, ast.Name) and root.id in imported:
                yield ast.unparse(target)


def is_foreign(module: str) -> bool:
    return module.split(".")[0] in ("torch", "megatron")


def test_nothing_is_replaced_but_through_the_table() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "harness").rglob("*.py"))
        for name in foreign_attributes_set(ast.parse(path.read_text()))
    }
    assert found == set()


@pytest.mark.parametrize(
    "text",
    [
        "from megatron.core import x\nx.y = 1",
        "import torch\ntorch.cuda.y = 1",
        "import megatron.core.optimizer as o\no.y.z = 1",
        "from megatron.core import x\nsetattr(x, 'y', 1)",
    ],
)
def test_the_look_at_the_sources_sees_replacements(text: str) -> None:
    assert len(list(foreign_attributes_set(ast.parse(text)))) == 1
