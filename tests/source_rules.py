"""Rules for source text, each a function from a syntax tree to the lines that break it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache

Breach = tuple[int, str]
"""Line, and what is wrong there."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

_UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
_UNSAFE_CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
}
_QUESTION_WORDS = {"what", "which", "whether", "how", "who", "where", "when"}
_PLURAL_NOUNS = {"numbers", "passes", "rows"}
"""Nouns with which a docstring of a function begins, and which look like a verb in the third person."""
_RAISED = re.compile(r"\s*(\w+): [a-z]")
_UNSAFE_KEYWORDS = {("shell", True), ("weights_only", False), ("allow_pickle", True)}


def imports_megatron(tree: ast.AST) -> Iterator[Breach]:
    """Megatron is imported at all."""
    yield from _imports_of(tree, "megatron")


def imports_other_than_core(tree: ast.AST) -> Iterator[Breach]:
    """Something of Megatron other than `megatron.core` is imported."""
    for line, name in _imports_of(tree, "megatron"):
        if not f"{name}.".startswith("megatron.core."):
            yield line, name


def uses_torch_distributed(tree: ast.AST) -> Iterator[Breach]:
    """`torch.distributed` is imported or reached through `torch`."""
    yield from _imports_of(tree, "torch.distributed")
    yield from _names_below(tree, "torch.distributed")


def reads_environment(tree: ast.AST) -> Iterator[Breach]:
    """Environment variables are read or set."""
    for name in ("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"):
        yield from _imports_of(tree, name)
        yield from _names_below(tree, name)


def is_unsafe(tree: ast.AST) -> Iterator[Breach]:
    """Data could run as code."""
    for module in _UNSAFE_MODULES:
        yield from _imports_of(tree, module)
    for node in _nodes(tree):
        if not isinstance(node, ast.Call):
            continue
        if (name := _dotted(node.func)) in _UNSAFE_CALLS:
            yield node.lineno, f"{name}()"
        for keyword in node.keywords:
            if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in _UNSAFE_KEYWORDS:
                yield node.lineno, f"{keyword.arg}={keyword.value.value}"


def has_long_function(tree: ast.AST) -> Iterator[Breach]:
    """A function has more than `MAX_FUNCTION_LINES` lines."""
    for node in _nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {length} lines"


def asserts_without_message(tree: ast.AST) -> Iterator[Breach]:
    """An `assert` does not say what it asserts."""
    for node in _nodes(tree):
        if isinstance(node, ast.Assert) and node.msg is None:
            yield node.lineno, ast.unparse(node)


def docstring_begins_with_a_question(tree: ast.AST) -> Iterator[Breach]:
    """A docstring of a module, class, function or attribute begins with a question word (What, Where …)."""
    for node in _nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            words = node.value.value.split(maxsplit=1)
            if words and words[0].rstrip(",:").lower() in _QUESTION_WORDS:
                yield node.lineno, words[0]


def docstring_is_not_imperative(tree: ast.AST) -> Iterator[Breach]:
    """A docstring of a function begins with a verb in the third person. One that is read like a field may."""
    for node, text in _docstrings_of_functions(tree):
        word = text.split(maxsplit=1)[0].rstrip(",:.")
        is_field = any(ast.unparse(decorator).endswith("property") for decorator in node.decorator_list)
        is_noun = word.lower() in _PLURAL_NOUNS or word.endswith("ss") or not word.isalpha()
        if word.endswith("s") and not is_field and not is_noun:
            yield node.lineno, word


def raises_entry_is_in_lower_case(tree: ast.AST) -> Iterator[Breach]:
    """An entry of `Raises:` does not begin with a capital letter."""
    for node, text in _docstrings_of_functions(tree):
        block = text.partition("Raises:\n")[2].partition("\n\n")[0]
        for line in block.splitlines():
            if (match := _RAISED.match(line)) and match[1][0].isupper():
                yield node.lineno, line.strip()


@lru_cache(maxsize=1)
def _nodes(tree: ast.AST) -> list[ast.AST]:
    """All nodes of a tree; kept, because one rule after the other looks at the same tree."""
    return list(ast.walk(tree))


def _docstrings_of_functions(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    for node in _nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
            yield node, text


def _imports_of(tree: ast.AST, module: str) -> Iterator[Breach]:
    """Imports of a module or of anything below it, by full name."""
    for node in _nodes(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name == module or name.startswith(f"{module}."):
                yield node.lineno, name


def _names_below(tree: ast.AST, dotted: str) -> Iterator[Breach]:
    """Uses of `a.b`, as itself or on the way to `a.b.c`."""
    for node in _nodes(tree):
        if isinstance(node, ast.Attribute) and _dotted(node) == dotted:
            yield node.lineno, dotted


def _dotted(node: ast.expr) -> str:
    """`a.b.c`, or nothing for an expression that is no such name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""
