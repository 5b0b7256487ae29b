"""The option `--signature-key-file` of commands that read checkpoints, and the key that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.errors import ConfigError
from harness.run.paths import RunDir

if TYPE_CHECKING:  # imported when a key is asked for, so that a help text costs nothing
    from harness.run.checkpoints.signature import SigningKey

Function = TypeVar("Function", bound=Callable[..., Any])


def signature_key_option(function: Function) -> Function:
    """`--signature-key-file FILE`, given to the command as `key_file`."""
    return click.option(
        "--signature-key-file",
        "key_file",
        type=click.Path(path_type=Path),
        envvar="HARNESS_SIGNATURE_KEY_FILE",
        help="Trust only what was signed with the key in this file. Default: the environment variable "
        "HARNESS_SIGNATURE_KEY_FILE, then checkpoint.signature_key_file of the run.",
    )(function)


def require_signed(checkpoints: Iterable[Path], key_file: Path | None) -> None:
    """Verifies every byte of checkpoints that must be signed; does nothing for those that need not be.

    Raises:
        CheckpointError: One is not signed, or not what was signed.
        UsageError: There is no such key, or it is not ours alone.
    """
    from harness.run.checkpoints.verify import verify_before_load

    for checkpoint in checkpoints:
        if (key := key_of_checkpoint(checkpoint, key_file)) is not None:
            verify_before_load(checkpoint, key=key)


def key_of_run(run: RunDir, key_file: Path | None) -> SigningKey | None:
    """The key with which checkpoints of a run must be signed: the given one, or the one that its configuration names.

    Who can write to the run's directory can also change its configuration: where that is not trusted, give the key.

    Raises:
        UsageError: There is no such key, or it is not ours alone.
    """
    from harness.config.load import load_config
    from harness.run.checkpoints.signature import read_key

    if key_file is None and run.config.is_file():
        try:
            key_file = load_config(run.config).checkpoint.signature_key_file
        except ConfigError:  # of a version with other fields; the commands work all the same
            return None
    return None if key_file is None else read_key(key_file)


def key_of_checkpoint(checkpoint: Path, key_file: Path | None) -> SigningKey | None:
    """The same for a checkpoint in the place where its run keeps it."""
    return key_of_run(RunDir(checkpoint.absolute().parent.parent), key_file)
