"""A package that is missing is one line that names an extra that brings it, whatever the command."""

from __future__ import annotations

import ast
import base64
import gzip
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from data_prep.tokenizers.train_tokenizer import TrainerSettings, train
from harness.missing_package import EXTRAS, describe_missing

ROOT = Path(__file__).parent.parent
_MESSAGE = re.compile(r"Python package ([\w-]+).*?`([\w-]+)`\s+extra", re.DOTALL)


def messages() -> list[tuple[str, str, str]]:
    """(file, package, extra) of every message whose package and extra are written out in it."""
    found = []
    for folder in ("harness", "data_prep", "checkpoint_tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found += [(path.name, *match.groups()) for match in _MESSAGE.finditer(node.value)]
    return found


def test_there_are_such_messages() -> None:
    assert {package for _, package, _ in messages()} >= {"pyarrow", "rensa"}


@pytest.mark.parametrize(("file", "package", "extra"), messages())
def test_the_extra_brings_the_package(file: str, package: str, extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert package in {re.split(r"[<>=\[; ]", requirement)[0] for requirement in extras[extra]}, file


def brought_by(extra: str) -> set[str]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return {re.split(r"[<>=\[; ]", requirement)[0] for requirement in extras[extra]}


def test_every_optional_package_has_its_extras() -> None:
    for package, extras in EXTRAS.values():
        assert all(package in brought_by(extra) for extra in extras), package


def optional_modules() -> set[str]:
    """Return the top of every module that the project imports and neither has nor always needs."""
    found = set()
    for folder in ("harness", "data_prep", "checkpoint_tools"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found.update(alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    own = {"harness", "data_prep", "checkpoint_tools", "_typeshed"}
    always = {"click", "pydantic", "pydantic_core", "yaml", "rich", "xxhash"}
    return found - own - always - set(sys.stdlib_module_names)


def test_every_optional_module_is_known() -> None:
    # What comes with a package of the list, or is looked for without being needed.
    with_others = {"loguru", "multiprocess", "triton", "apex", "amp_C", "pycountry"}
    assert optional_modules() - with_others <= set(EXTRAS)


def test_other_imports_that_fail_are_bugs() -> None:
    assert describe_missing(ModuleNotFoundError("no", name="harness.nothing")) is None
    assert describe_missing(ImportError("cannot import name 'x'")) is None
    broken = describe_missing(ImportError("libcudart.so: cannot open", name="torch._C"))
    assert broken is not None and "cannot be imported (libcudart.so: cannot open)" in broken


HIDING = """
import os
from importlib.machinery import PathFinder
hidden, find = os.environ["HIDDEN_FOR_TEST"], PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] == hidden else find(name, path, target)
PathFinder.find_spec = staticmethod(find_spec)
"""
CONFIG = str(ROOT / "model_configs/tiny.yaml")
CLEAN = ("data", "clean", "raw.jsonl", "--output", "OUT")
NEEDING: dict[str, tuple[str, ...]] = {
    "datatrove": CLEAN,
    "fasttext": (*CLEAN, "--language-model", "raw.jsonl"),
    "fsspec": ("data", "inspect-tokenizer", "tokenizer.json", "a=s3://bucket/raw.jsonl"),
    "google": ("data", "extend-tokenizer", "a.model", "a=raw.jsonl", "--words", "words.txt", "--output", "b.model"),
    "matplotlib": ("plan", CONFIG, "--plot", "out.png"),
    "megatron": ("plan", CONFIG, "--trace"),
    "numpy": ("data", "count", "."),
    "py3langid": CLEAN,
    "pyarrow": ("data", "clean", "raw.parquet", "--output", "OUT"),
    "ray": ("data", "clean", "--config", "corpus.yaml", "--executor", "ray"),
    "rensa": ("data", "dedup", "raw.jsonl", "--output", "OUT"),
    "safetensors": ("convert", "from-hf", "model", "OUT"),
    "sentencepiece": ("data", "inspect-tokenizer", "a.model", "a=raw.jsonl"),
    "tiktoken": ("data", "inspect-tokenizer", "cl100k_base.tiktoken", "a=raw.jsonl"),
    "tokenizers": ("data", "inspect-tokenizer", "tokenizer.json", "a=raw.jsonl"),
    "torch": ("train", CONFIG),
    "zstandard": ("data", "clean", "raw.jsonl.zst", "--output", "OUT"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a little of everything, and a Python that lacks the package named in the environment."""
    place = tmp_path_factory.mktemp("missing")
    (place / "site").mkdir()
    (place / "site/sitecustomize.py").write_text(HIDING)
    with gzip.open(ROOT / "data_prep/demo/languages.jsonl.gz", "rt") as lines:
        text = "".join(line for line in lines if '"language": "id"' in line)
    (place / "raw.jsonl").write_text(text)
    (place / "raw.jsonl.zst").write_bytes(zstandard.compress(text.encode()))
    parquet.write_table(pyarrow.table({"text": [text]}), place / "raw.parquet")
    (place / "corpus.yaml").write_text("output: corpus\nsources: {a: {input: [raw.jsonl]}}\n")
    (place / "words.txt").write_text("pengadilan\n")
    ranks = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    (place / "cl100k_base.tiktoken").write_text("\n".join(ranks) + "\n")
    for name, kind in (("a.model", "sentencepiece"), ("tokenizer.json", "byte-level")):
        settings = TrainerSettings(kind=kind, vocab_size=640, num_spare_ids=0)
        (place / name).write_bytes(train(iter(text.splitlines()), settings))
    (place / "model").mkdir()
    (place / "model/config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return place


@pytest.mark.parametrize("module", NEEDING)
def test_a_command_without_its_package_says_so_in_one_line(module: str, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{folder / 'site'}:{ROOT}", "HIDDEN_FOR_TEST": module}
    arguments = [f"out-{module}" if argument == "OUT" else argument for argument in NEEDING[module]]
    command = [sys.executable, "-m", "harness.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    package, extras = EXTRAS[module]
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 64, done.stderr
    lines = [line for line in done.stderr.splitlines() if "not installed" in line]
    assert len(lines) == 1 and (package in lines[0] or module in lines[0]), done.stderr
    assert any(f"`{extra}`" in lines[0] or f"harness[{extra}]" in lines[0] for extra in extras), lines[0]
