"""The Slurm that the tests of this folder share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from cluster import INSTALL, Cluster, missing_programs


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes on this machine, or a skip that says what is missing."""
    if missing := missing_programs():
        pytest.skip(f"no Slurm here: {', '.join(missing)} not found; install it with `{INSTALL}`")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends the tests so ends the daemons, too
    with Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything that starts a Slurm is run by `make slurm`, which takes minutes more than all other tests."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slurm)
