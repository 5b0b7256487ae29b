"""Serves the last metrics of a run to Prometheus, at `http://127.0.0.1:PORT/metrics` while the watcher runs.

Every metric of `metrics.jsonl` is a gauge with its last value, `train/lm_loss/zh` for instance
`harness_train_lm_loss{run="tiny",directory="/shared/runs/tiny",channel="zh"}`; the loss over all channels has the
channel `total`. The watcher adds the open episodes, the number of rollbacks, whether training runs, and the steps of
the last evaluation and of the last save. docs/monitoring.md has a dashboard and rules for alerts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.run import metric_names as names
from harness.run.paths import RunDir
from harness.run.records import StepRecord
from harness.watch.last_values import LastValues, is_after, recalled, with_record
from harness.watch.verdict import TOTAL, OpenEpisode

LOOPBACK = "127.0.0.1"
_NOT_IN_NAMES = re.compile(r"[^a-z0-9_]")
_LABELS: Mapping[str, tuple[str, ...]] = {
    names.LM_LOSS: ("channel",),
    names.mtp_loss_of("").removesuffix("/"): ("module",),
    names.tokens_of("").removesuffix("/"): ("channel",),
    names.epochs_of("").removesuffix("/"): ("channel",),
    names.valid_lm_loss_of("").removesuffix("/"): ("channel",),
    names.valid_bits_per_byte_of("").removesuffix("/"): ("channel",),
    names.valid_position_loss_of("", "").removesuffix("//"): ("channel", "position"),
    names.valid_needle_loss_of("").removesuffix("/"): ("depth",),
}
"""Labels for what stands behind the name of a metric, between slashes. Of other metrics the rest is a channel."""
_EVALUATION = "valid/"


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
    train_steps: int | None = None
    """Length of the whole run."""
    last: LastValues | None = None
    """Replaced as a whole: another thread reads it for every request."""
    episodes: tuple[OpenEpisode, ...] = ()
    num_rollbacks: int = 0
    is_training: bool = True
    is_served: bool = False

    @property
    def record(self) -> StepRecord | None:
        """The last record."""
        return None if self.last is None else self.last.record

    def observe(self, record: StepRecord) -> None:
        """Take a record. Behind a rewind the values that count again are read from the file, if anybody may ask."""
        if not is_after(self.last, record):
            return
        is_rewound = self.last is not None and record.step <= self.last.record.step
        self.last = with_record(self.last, record)
        if is_rewound:
            self.recall()

    def recall(self) -> None:
        """Take the last values from the end of the run's file, so that a watcher begins with those of rare metrics."""
        found = recalled(RunDir(Path(self.directory)).metrics) if self.is_served and self.directory else None
        if found is not None and (self.last is None or not is_after(found, self.last.record)):
            self.last = found


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
    if latest.train_steps is not None:
        put("train_steps", latest.train_steps)
    if (last := latest.last) is not None:
        record = last.record
        put("step", record.step)
        put("attempt", record.attempt)
        put("consumed_tokens", record.consumed_tokens)
        put("last_record_timestamp_seconds", record.time)
        for name, prefix in (("evaluation_step", _EVALUATION), ("save_step", names.SAVE_S)):
            if (step := last.step_of(prefix)) is not None:
                put(name, step)
        per_channel = {"/".join(name.split("/")[:2]) for name in last.metrics if name.count("/") > 1}
        for name, seen in last.metrics.items():
            section, _, rest = name.partition("/")
            metric, _, detail = rest.partition("/")
            full = f"{section}/{metric}"
            labels = _labels_of(full, detail) if full in _LABELS or full in per_channel else {}
            put(_NOT_IN_NAMES.sub("_", f"{section}_{metric}".lower()), seen.value, **labels)
    return found


def _labels_of(metric: str, detail: str) -> dict[str, str]:
    """Return the labels of a metric by what stands behind its name."""
    labels = _LABELS.get(metric, ("channel",))
    parts = (detail or TOTAL).rsplit("/", len(labels) - 1)
    return dict(zip(labels, parts, strict=False))


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
    latest.is_served = True
    latest.recall()
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
            family = self.family(name, f"of {self.latest.run}, see docs/monitoring.md", labels=list(labels))
            for key, value in gauge.items():
                family.add_metric([text for _, text in key], value)
            yield family
