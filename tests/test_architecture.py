"""The rules of the architecture, held against the source text and against what is imported at run time."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import source_rules
from source_rules import MAX_FILE_LINES, Breach

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "data_prep", "checkpoint_tools")
SOURCES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

IN_PLAIN_ENGLISH = ("benchmarks", "checkpoint_tools", "data_prep", "docs", "harness")
"""Folders whose docstrings begin with a verb or a noun."""

LIGHT = (
    "errors",
    "version",
    "text",
    "progress",
    "standard_streams",
    "parameters",
    "config",
    "plan",
    "run",
    "metrics",
    "watch",
    "launch",
    "doctor",
    "cli",
)
HEAVY = {"torch", "numpy", "megatron", "transformer_engine"}
FORBIDDEN_NAMES = {"utils", "util", "helper", "helpers", "common", "misc", "manager", "handler", "processor"}
FORBIDDEN_NAMES |= {"info", "tmp", "new", "base"}

Rule = Callable[[ast.AST], Iterator[Breach]]


def is_mcore(path: Path) -> bool:
    """Whether a file is one of those that may know Megatron."""
    return path.name == "mcore.py" or path == Path("harness/parallel/cpu.py")


def is_parallel(path: Path) -> bool:
    """Whether a file may know about processes."""
    return path.is_relative_to("harness/parallel")


def knows_pickles(path: Path) -> bool:
    """The file that writes an index as torch does, and names the error of torch's own reader."""
    return path == Path("harness/run/checkpoints/metadata_pickle.py")


def nowhere(path: Path) -> bool:
    """A rule without exceptions."""
    return False


RULES: list[tuple[Rule, Callable[[Path], bool]]] = [
    (source_rules.imports_megatron, is_mcore),
    (source_rules.imports_other_than_core, nowhere),
    (source_rules.uses_torch_distributed, lambda path: is_parallel(path) or is_mcore(path)),
    (source_rules.reads_environment, lambda path: is_parallel(path) or path == Path("harness/run/paths.py")),
    (source_rules.is_unsafe, knows_pickles),
    (source_rules.has_long_function, nowhere),
    (source_rules.asserts_without_message, nowhere),
    (source_rules.docstring_is_not_imperative, nowhere),
    (source_rules.raises_entry_is_in_lower_case, nowhere),
]


@pytest.fixture(scope="module")
def breaches() -> dict[str, list[str]]:
    """Breaches of every rule, by its name; each file is read once for all of them."""
    found: dict[str, list[str]] = {rule.__name__: [] for rule, _ in RULES}
    for path in SOURCES:
        tree = ast.parse((ROOT / path).read_text())
        for rule, is_allowed in RULES:
            if not is_allowed(path):
                found[rule.__name__] += [f"{path}:{line}: {what}" for line, what in rule(tree)]
    return found


@pytest.mark.parametrize("rule", [rule for rule, _ in RULES], ids=[rule.__name__ for rule, _ in RULES])
def test_source_keeps_the_rule(rule: Rule, breaches: dict[str, list[str]]) -> None:
    assert breaches[rule.__name__] == [], f"{rule.__name__}: {rule.__doc__}"


@pytest.mark.parametrize("folder", IN_PLAIN_ENGLISH)
def test_docstrings_begin_with_a_verb_or_a_noun(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths, f"there are no sources in {folder}"
    breaches = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in paths
        for line, what in source_rules.docstring_begins_with_a_question(ast.parse(path.read_text()))
    ]
    assert breaches == []


@pytest.mark.parametrize(
    ("rule", "text", "what"),
    [
        (source_rules.imports_megatron, "import megatron.core", "megatron.core"),
        (source_rules.imports_megatron, "def f():\n    from megatron import core", "megatron.core"),
        (source_rules.imports_other_than_core, "from megatron.training import get_args", "megatron.training.get_args"),
        (source_rules.imports_other_than_core, "import megatron.corex", "megatron.corex"),
        (source_rules.uses_torch_distributed, "import torch.distributed as dist", "torch.distributed"),
        (source_rules.uses_torch_distributed, "from torch import distributed", "torch.distributed"),
        (source_rules.uses_torch_distributed, "torch.distributed.barrier()", "torch.distributed"),
        (source_rules.reads_environment, "x = os.environ['RANK']", "os.environ"),
        (source_rules.reads_environment, "from os import getenv", "os.getenv"),
        (source_rules.is_unsafe, "import pickle", "pickle"),
        (source_rules.is_unsafe, "eval('1')", "eval()"),
        (source_rules.is_unsafe, "subprocess.run(x, shell=True)", "shell=True"),
        (source_rules.is_unsafe, "yaml.load(x, Loader=y)", "yaml.load()"),
        (source_rules.is_unsafe, "torch.load(x, weights_only=False)", "weights_only=False"),
        (source_rules.has_long_function, "def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
        (source_rules.asserts_without_message, "assert x", "assert x"),
        (source_rules.docstring_begins_with_a_question, '"""What it does."""', "What"),
        (source_rules.docstring_begins_with_a_question, 'def f():\n    """Whether it is so."""', "Whether"),
        (source_rules.docstring_begins_with_a_question, 'class A:\n    x: int\n    """How, often."""', "How,"),
        (source_rules.docstring_is_not_imperative, 'def f():\n    """Writes a file."""', "Writes"),
        (source_rules.docstring_is_not_imperative, 'async def f():\n    """Makes, or continues."""', "Makes"),
        (
            source_rules.raises_entry_is_in_lower_case,
            'def f():\n    """Open.\n\n    Raises:\n        OSError: from the disk.\n    """',
            "OSError: from the disk.",
        ),
    ],
)
def test_rules_see_what_they_forbid(rule: Rule, text: str, what: str) -> None:
    assert [breach[1] for breach in rule(ast.parse(text))] == [what]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (source_rules.imports_other_than_core, "from megatron.core import parallel_state"),
        (source_rules.uses_torch_distributed, "torch.distributions.Normal(0, 1)"),
        (source_rules.is_unsafe, "model.eval(); torch.load(x, weights_only=True); yaml.safe_load(y)"),
        (source_rules.has_long_function, "def f():\n" + "    x = 1\n" * 59),
        (source_rules.asserts_without_message, "assert x, 'x holds'"),
        (source_rules.docstring_begins_with_a_question, 'def f():\n    """Return whether it is so."""'),
        (source_rules.docstring_begins_with_a_question, 'x = "What is it?"'),
        (source_rules.docstring_is_not_imperative, 'def f():\n    """Pass it on."""'),
        (source_rules.docstring_is_not_imperative, '@property\ndef f():\n    """Samples of a step."""'),
        (
            source_rules.raises_entry_is_in_lower_case,
            'def f():\n    """Open.\n\n    Raises:\n        OSError: From the disk,\n            too: often.\n    """',
        ),
    ],
)
def test_rules_let_the_rest_pass(rule: Rule, text: str) -> None:
    assert list(rule(ast.parse(text))) == []


def test_imports_point_down() -> None:
    command = [
        sys.executable,
        "-c",
        "import importlinter.cli as c; raise SystemExit(c.lint_imports(no_cache=True, no_logo=True))",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy(name: str) -> None:
    """Every module of the package is imported in one fresh process; the first that brings something heavy is named."""
    modules = [path for path in SOURCES if path.parts[:2] in (("harness", name), ("harness", f"{name}.py"))]
    dotted = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in modules]
    assert dotted, f"there is no harness.{name}"
    program = (
        "import importlib, sys\n"
        f"for name in {dotted}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {HEAVY} & set(sys.modules)\n"
        "    if heavy: sys.exit(f'{name} imports {sorted(heavy)}')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_init_files_are_empty() -> None:
    assert [str(path) for path in SOURCES if path.name == "__init__.py" and (ROOT / path).read_text()] == []


def test_files_are_short() -> None:
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_modules_are_named_for_what_they_do() -> None:
    assert [str(path) for path in SOURCES if path.stem in FORBIDDEN_NAMES or path.parent.name in FORBIDDEN_NAMES] == []


def test_every_folder_with_sources_is_a_package() -> None:
    assert [str(path.parent) for path in SOURCES if not (ROOT / path.parent / "__init__.py").is_file()] == []
