"""The option `--signature-key-file` of commands that read checkpoints, and the key that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.errors import ConfigError
from harness.run.paths import RunDir

if TYPE_CHECKING:  # imported only when a key is needed, so that help texts stay fast
    from harness.run.checkpoints.signature import SigningKey

Function = TypeVar("Function", bound=Callable[..., Any])


def signature_key_option(function: Function) -> Function:
    """Add the option `--signature-key-file FILE`, which the command gets as `key_file`."""
    return click.option(
        "--signature-key-file",
        "key_file",
        type=click.Path(path_type=Path),
        envvar="HARNESS_SIGNATURE_KEY_FILE",
        help="Trust only what was signed with the key in this file. Default: the environment variable "
        "HARNESS_SIGNATURE_KEY_FILE, then checkpoint.signature_key_file of the run.",
    )(function)


def require_signed(checkpoints: Iterable[Path], key_file: Path | None) -> None:
    """Verify every byte of checkpoints that must be signed. Others are not read.

    Raises:
        CheckpointError: One is not signed, or was altered since it was signed.
        UsageError: There is no such key, or others can read or change it.
    """
    from harness.run.checkpoints.verify import verify_before_load

    for checkpoint in checkpoints:
        if (key := key_of_checkpoint(checkpoint, key_file)) is not None:
            verify_before_load(checkpoint, key=key)


def key_of_run(run: RunDir, key_file: Path | None) -> SigningKey | None:
    """Return the key that must have signed the checkpoints of a run, or None if they need no signature.

    It is the given key, or the one in the run's configuration. Whoever can write to the run's directory can also change
    its configuration: where that is not trusted, give the key.

    Raises:
        UsageError: There is no such key, or others can read or change it.
    """
    from harness.config.load import load_config
    from harness.run.checkpoints.signature import read_key

    if key_file is None and run.config.is_file():
        try:
            key_file = load_config(run.config).checkpoint.signature_key_file
        except ConfigError:  # written by a version with other fields; the commands work without it
            return None
    return None if key_file is None else read_key(key_file)


def key_of_checkpoint(checkpoint: Path, key_file: Path | None) -> SigningKey | None:
    """Return the key of the run that a checkpoint belongs to, by the checkpoint's place; see `key_of_run`."""
    return key_of_run(RunDir(checkpoint.absolute().parent.parent), key_file)
