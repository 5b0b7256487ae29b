"""Checks before a job is queued that its alerts can reach people."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Container, Iterator

from harness.alerts.addresses import deliveries
from harness.config.schema import Config
from harness.errors import UsageError
from harness.parallel.environment import ALERT_URLS


def alert_problems(config: Config) -> Iterator[str]:
    """Yield the reasons why alerts of a job would not be sent, where this Python is that of the job."""
    if not _is_elsewhere(config):
        yield from _problems(config)


def alert_notes(config: Config, set_names: Container[str]) -> Iterator[str]:
    """Yield what people should know of the alerts of a job. `set_names` are the environment variables that are set."""
    settings = config.watch
    if _is_elsewhere(config):
        yield from (f"{problem} (here; the job runs in another environment)" for problem in _problems(config))
    if ALERT_URLS in set_names:
        yield (
            f"{ALERT_URLS} is set here, and a job does not get it: set it in launch.environment_file, or write the "
            "addresses into watch.alert_urls_file"
        )
    if not settings.alert_command and settings.alert_urls_file is None and config.launch.environment_file is None:
        yield (
            "nobody is told when this run fails or hangs: no place for alerts is configured (watch.alert_urls_file, "
            "watch.alert_command)"
        )


def _problems(config: Config) -> Iterator[str]:
    settings = config.watch
    if settings.alert_command and shutil.which(settings.alert_command[0]) is None:
        yield f"watch.alert_command: there is no program {settings.alert_command[0]!r} that can be run here"
    try:
        deliveries((), settings.alert_urls_file)
    except UsageError as error:
        yield str(error)


def _is_elsewhere(config: Config) -> bool:
    """Return whether the job runs with other packages than this process."""
    launch = config.launch
    return launch.container_image is not None or (launch.python is not None and launch.python != sys.executable)
