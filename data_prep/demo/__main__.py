"""`python -m data_prep.demo [OUT]`: makes the demo's tokenizer and channels."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.errors import HarnessError
from harness.say import say


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path), default=Path(".demo"))
def main(out: Path) -> None:
    """Make the demo's tokenizer and its channels zh, en and code under OUT (default: .demo).

    Takes seconds. What is there already is left alone.
    """
    from data_prep.demo.build import build_demo

    try:
        build_demo(out, say=say)
    except HarnessError as error:
        say(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
