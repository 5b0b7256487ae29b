"""Ends all ranks with the exit code of an error on one of them, and reports it once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import BadDataError, ConfigError, HarnessError, UsageError
from harness.parallel import collectives
from harness.parallel.ranks import Ranks


@contextmanager
def raising_together(ranks: Ranks) -> Iterator[None]:
    """Raise an error of the `with` block on any rank on every rank. Every rank must enter it.

    An error of the disk counts too. The block must not call a collective, in which the ranks without an error would
    wait.

    Raises:
        HarnessError: On rank 0: the error of the lowest rank that had one.
        SystemExit: On the other ranks, which leave silently with the same exit code.
    """
    own = None
    try:
        yield
    except HarnessError as error:
        own = error
    except OSError as error:
        own = _refused(error)
    if not collectives.is_true_anywhere(own is not None):
        return
    found = [error for error in collectives.gathered(None if own is None else _as_sent(own)) if error is not None]
    if ranks.is_writer:
        raise own or found[0]
    raise SystemExit(found[0].exit_code)


def _refused(error: OSError) -> HarnessError:
    path = error.filename or "a file"
    return BadDataError(
        f"the disk refused {path}: {error.strerror or error}. No step was taken, and no checkpoint was touched. "
        "Check the file system and the limits of this process, then start again."
    )


def _as_sent(error: HarnessError) -> HarnessError:
    """Return the error in a form that can be pickled. A `ConfigError` is made from more than its text."""
    return UsageError(str(error)) if isinstance(error, ConfigError) else error
