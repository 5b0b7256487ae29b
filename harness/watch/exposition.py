"""Serves the last metrics of a run to Prometheus, at `http://127.0.0.1:PORT/metrics` while the watcher runs.

Every metric of `metrics.jsonl` is a gauge, `train/lm_loss/zh` for instance
`harness_train_lm_loss{run="tiny",directory="/shared/runs/tiny",channel="zh"}`; the loss over all channels has the
channel `total`. The watcher adds the open episodes, the number of rollbacks, and whether training runs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from harness.errors import UsageError
from harness.run.records import StepRecord
from harness.watch.verdict import TOTAL, OpenEpisode

LOOPBACK = "127.0.0.1"
_NOT_IN_NAMES = re.compile(r"[^a-z0-9_]")


@dataclass(frozen=True)
class Address:
    """Address on which metrics are served."""

    port: int
    host: str = LOOPBACK
    """Loopback by default, so that only this machine can read them: there is no password."""


@dataclass(kw_only=True)
class Latest:
    """The values that are served. The watcher updates them after every look."""

    run: str
    directory: str = ""
    """The run's directory: several runs of one YAML have one name."""
    record: StepRecord | None = None
    episodes: tuple[OpenEpisode, ...] = ()
    num_rollbacks: int = 0
    is_training: bool = True


Gauge = dict[tuple[tuple[str, str], ...], float]
"""All values of one metric, by labels."""


def gauges(latest: Latest) -> dict[str, Gauge]:
    """Return every metric by its Prometheus name (pure)."""
    found: defaultdict[str, Gauge] = defaultdict(dict)
    own = [("run", latest.run), *([("directory", latest.directory)] if latest.directory else [])]

    def put(name: str, value: float, **labels: str) -> None:
        found[f"harness_{name}"][*own, *labels.items()] = value

    put("training", float(latest.is_training))
    put("rollbacks", float(latest.num_rollbacks))
    put("open_episodes", float(len(latest.episodes)))
    for episode in latest.episodes:
        put("episode_recent_z", episode.recent_z, channel=episode.channel, direction=episode.direction)
    if (record := latest.record) is not None:
        put("step", record.step)
        put("attempt", record.attempt)
        put("consumed_tokens", record.consumed_tokens)
        put("last_record_timestamp_seconds", record.time)
        per_channel = {"/".join(name.split("/")[:2]) for name in record.values if name.count("/") > 1}
        for name, value in record.values.items():
            section, _, rest = name.partition("/")
            metric, _, channel = rest.partition("/")
            labels = {"channel": channel or TOTAL} if f"{section}/{metric}" in per_channel else {}
            put(_NOT_IN_NAMES.sub("_", f"{section}_{metric}".lower()), value, **labels)
    return found


@contextmanager
def served(latest: Latest, address: Address | None) -> Iterator[None]:
    """Serve the values until the end of the `with` block. Does nothing without an address.

    Raises:
        UsageError: The package prometheus-client is not installed, or the address cannot be listened on.
    """
    if address is None:
        yield
        return
    try:
        library: Any = import_module("prometheus_client")
    except ImportError as error:
        raise UsageError(
            f"--metrics-port {address.port}: it needs the package prometheus-client, which is not installed. Install "
            "the project with its `prometheus` extra (pip install prometheus-client), or leave --metrics-port away."
        ) from error
    registry = library.CollectorRegistry(auto_describe=False)
    registry.register(_Collector(latest, import_module("prometheus_client.core").GaugeMetricFamily))
    try:
        server, thread = library.start_http_server(address.port, addr=address.host, registry=registry)
    except OSError as error:
        raise UsageError(
            f"--metrics-port {address.port}: cannot listen on {address.host}: {error.strerror or error}. Every watcher "
            "on a machine needs a port of its own, above 1023."
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(eq=False)  # the registry needs a hash
class _Collector:
    """Converts the latest values to Prometheus' objects for every request."""

    latest: Latest
    family: Any
    """The library's `GaugeMetricFamily`."""

    def collect(self) -> Iterator[Any]:
        """Yield one metric family per gauge. The library calls this for every request."""
        for name, gauge in gauges(self.latest).items():
            labels: Mapping[str, str] = dict(next(iter(gauge)))
            family = self.family(name, f"of {self.latest.run}, see docs/operations.md", labels=list(labels))
            for key, value in gauge.items():
                family.add_metric([text for _, text in key], value)
            yield family
