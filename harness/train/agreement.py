"""An error on one rank ends all of them with its exit code, and is told once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import ConfigError, HarnessError, UsageError
from harness.parallel import collectives
from harness.parallel.ranks import Ranks


@contextmanager
def heard_by_all(ranks: Ranks) -> Iterator[None]:
    """Raises an error that some rank met in the `with` block on every rank. Every rank must enter it.

    What runs inside must call no collective: the ranks without an error would wait in it.

    Raises:
        HarnessError: On rank 0: the error of the lowest rank that met one.
        SystemExit: On the other ranks, which leave in silence with the same exit code.
    """
    own = None
    try:
        yield
    except HarnessError as error:
        own = error
    found = [error for error in collectives.gathered(None if own is None else _as_sent(own)) if error is not None]
    if not found:
        return
    if ranks.is_writer:
        raise own or found[0]
    raise SystemExit(found[0].exit_code)


def _as_sent(error: HarnessError) -> HarnessError:
    """The error in a form that survives pickling: a `ConfigError` is made of more than its text."""
    return UsageError(str(error)) if isinstance(error, ConfigError) else error
