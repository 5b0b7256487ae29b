"""The page of the exit codes: what each means, and which errors leave with it, from the module of the errors."""

from __future__ import annotations

import inspect
from types import ModuleType

from docs.generate.docstrings import constants_of, summary_of
from harness.errors import HarnessError

_PREFIX = "EXIT_"
_HEAD = """\
# Exit codes

Every command of `harness` leaves with one of these codes. A job on a cluster is requeued or not by the same codes:
[operations.md](../operations.md#what-comes-back-by-itself-and-what-does-not) says what follows from each.

An error that you can do something about is one message on standard error, without a traceback. It says what happened,
what was given, what is allowed and what to do. A traceback is a bug.

Three codes come from elsewhere. A command that was interrupted at the keyboard leaves with 130. A process that a signal
killed has 128 plus the number of the signal. `harness checkpoint diff` leaves with 1 if the two sides differ.
"""


def exit_codes_page(module: ModuleType) -> str:
    """Return the page: one heading for each code, with the errors that leave with it."""
    parts = [_HEAD]
    for constant, text in constants_of(module).items():
        if constant.startswith(_PREFIX):
            code: int = getattr(module, constant)
            parts.append(f"## {code}: {constant.removeprefix(_PREFIX).lower().replace('_', ' ')}\n\n{text}\n")
            parts.extend(_errors_with(module, code))
    return "\n".join(parts)


def _errors_with(module: ModuleType, code: int) -> list[str]:
    """Return a list of the errors that leave with a code, bases first. The root of all errors is left out."""
    classes = [each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module.__name__]
    errors = [each for each in classes if issubclass(each, HarnessError) and each.__base__ is not Exception]
    errors = [each for each in errors if each.exit_code == code]
    errors.sort(key=lambda each: (len(each.__mro__), each.__name__))
    return ["\n".join(f"- `{each.__name__}`: {summary_of(each)}" for each in errors) + "\n"] if errors else []
