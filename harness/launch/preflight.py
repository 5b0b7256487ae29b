"""Checks a run on a login node, before it waits in a queue for hours."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.channels.channels import PARTS_FILE, bare_part, has_list, listed_parts
from harness.channels.made_with import TokenizerFindings, paths_in_use
from harness.channels.parts import Part, header_problems
from harness.config.schema import Config
from harness.doctor.facts import SHARED_FILE_SYSTEMS, file_system_of
from harness.errors import ConfigError, DataError
from harness.launch.alerts_check import alert_notes, alert_problems
from harness.launch.gpu_request import gpu_flag_problems
from harness.launch.requirements import parallel_sections
from harness.launch.slurm import flag_problems, seconds_of, variable_problems
from harness.launch.tokenizer_check import look_at_tokenizer
from harness.parallel.environment import names_set
from harness.plan.demand import demands, limit_problems, repetition_notes
from harness.plan.memory import checkpoint_bytes
from harness.plan.plan import Plan, make_plan
from harness.run.begun_phases import Moved, moved_phase
from harness.run.checkpoints.entries import Checkpoint, entries_in, newest_first
from harness.run.commands.mailbox import is_being_written
from harness.run.event_types import Saved
from harness.run.events import last_events
from harness.run.lock import owner_of
from harness.run.metric_names import STEP_TIME_S
from harness.run.paths import RunDir
from harness.run.records import last_records

NUM_CHECKPOINTS = 2
"""Number of checkpoints for which there must be space at the start: one that is kept and one that is written."""
MANY_NODES = 64
"""Nodes from which on a shared disk with packages delays a start: 500 ranks read 5,000 files each."""
LEAD_FACTOR = 1.5
"""Factor of the lead time over the longest of the last steps and saves."""
_NUM_STEPS = 2_000
"""Recorded steps, the last ones, whose longest says how long a step takes."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The errors and warnings that were found."""

    errors: tuple[str, ...]
    """Reasons not to queue the job."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The launch that is requested."""

    config: Config
    run_dir: RunDir
    nodes: int
    after_another: bool
    """True if the job waits for another one, which may be training in the same directory now."""

    @property
    def workers_per_node(self) -> int:
        """Number of ranks on every node: one per GPU unless the configuration has another number."""
        return self.config.launch.workers_per_node or self.config.launch.gpus_per_node or 1

    @property
    def world_size(self) -> int:
        """Number of ranks in all."""
        return self.nodes * self.workers_per_node

    @cached_property
    def tokenizer_findings(self) -> TokenizerFindings:
        """The result of a look at the tokenizer, and at what the channels were made with."""
        return look_at_tokenizer(self.config)

    @property
    def nearest_folder(self) -> Path:
        """The run directory if it exists, otherwise the first of the folders above it that does."""
        return next(path for path in (self.run_dir.root, *self.run_dir.root.parents) if path.exists())


Check = Callable[[Request], Iterator[str]]


def check_request(request: Request) -> Findings:
    """Return all problems of a request, not only the first."""
    return Findings(
        errors=tuple(problem for check in _ERRORS.values() for problem in check(request)),
        warnings=tuple(problem for check in _WARNINGS for problem in check(request)),
    )


def _layout(request: Request) -> Iterator[str]:
    try:
        make_plan(request.config, request.world_size)
    except ConfigError as error:
        nodes = "node" if request.nodes == 1 else "nodes"
        place = f"the layout does not fit {request.nodes} {nodes} with {request.workers_per_node} ranks each"
        yield from (f"{place}: {problem}" for problem in error.problems)


def _workers(request: Request) -> Iterator[str]:
    gpus, workers = request.config.launch.gpus_per_node, request.workers_per_node
    if 0 < gpus < workers:
        yield f"launch.workers_per_node is {workers}, but there are {gpus} GPUs on a node; at most one worker a GPU"


def _tokenizer(request: Request) -> Iterator[str]:
    yield from request.tokenizer_findings.problems


def _tokenizer_notes(request: Request) -> Iterator[str]:
    yield from request.tokenizer_findings.notes


def _channels(request: Request) -> Iterator[str]:
    for name, path in paths_in_use(request.config).items():
        problems = _channel_problems(path, request.config.model.vocab_size)
        yield from (f"{name}: {problem}" for problem in problems)


def _channel_problems(path: Path, vocab_size: int) -> Iterator[str]:
    """Yield the problems of a channel's files that names, sizes and the headers of the indices show."""
    listed, is_listed = path / PARTS_FILE, True
    try:
        is_listed = has_list(path)
        missing = [str(file) for suffix in (".bin", ".idx") if not _is_readable(file := Path(f"{path}{suffix}"))]
        if missing and not is_listed:
            yield f"there is no {listed}, and {' and '.join(missing)} cannot be read; make them with `harness data`"
            return
        parts = listed_parts(listed) if is_listed else (bare_part(path),)
    except (OSError, DataError) as error:
        yield f"{listed} cannot be read: {error}" if is_listed else str(error)
        return
    if not parts:
        yield f"{listed} lists no part"
    sound: list[Part] = []
    for part in parts:
        binary, index = part.bin_path, part.idx_path
        if not _is_readable(index) or not _is_readable(binary):
            yield f"{binary} or {index} cannot be read, but {listed} lists the part"
        elif binary.stat().st_size != part.bin_bytes:
            yield f"{binary} has {binary.stat().st_size} bytes, {listed} says {part.bin_bytes}; was it copied whole?"
        else:
            sound.append(part)
    yield from header_problems(sound, vocab_size)


def _alerts(request: Request) -> Iterator[str]:
    yield from alert_problems(request.config)


def _alert_notes(request: Request) -> Iterator[str]:
    yield from alert_notes(request.config, names_set())


def _job_files(request: Request) -> Iterator[str]:
    settings = request.config.launch
    if settings.environment_file is not None and not _is_readable(settings.environment_file):
        yield f"launch.environment_file: {settings.environment_file} cannot be read"
    image = settings.container_image
    if (
        image is not None
        and (image.startswith(("/", "./")) or image.endswith(".sqsh"))
        and not _is_readable(Path(image))
    ):
        yield f"launch.container_image: {image} cannot be read; give a .sqsh file or the name of an image in a registry"


def _flags(request: Request) -> Iterator[str]:
    yield from flag_problems(request.config.launch.sbatch_flags)
    yield from gpu_flag_problems(request.config.launch, request.nodes)
    yield from variable_problems(names_set())


def _time(request: Request) -> Iterator[str]:
    settings = request.config.launch
    if seconds_of(settings.time_limit) <= settings.signal_lead_s:
        yield (
            f"launch.signal_lead_s is {settings.signal_lead_s}, but launch.time_limit {settings.time_limit} is only "
            f"{seconds_of(settings.time_limit)} s; the run would be stopped at once"
        )


def _run_directory(request: Request) -> Iterator[str]:
    root, existing = request.run_dir.root, request.nearest_folder
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield f"the run directory {root} cannot be made: {existing} is not writable; choose another one with --run-dir"
    elif not request.after_another and (owner := owner_of(request.run_dir)) is not None:
        yield (
            f"{root} is in use: {owner} trains there; wait for it, or queue behind it with "
            "--dependency=afterany:JOB, or choose another directory with --run-dir"
        )


def _begun_phases(request: Request) -> Iterator[str]:
    """Yield the reason why the run would not go on in phases that have begun."""
    if (moved := _moved_phase(request)) is not None and moved.problem is not None:
        yield moved.problem


def _told_phases(request: Request) -> Iterator[str]:
    """Yield changes of phases that have begun which are small or confirmed."""
    if (moved := _moved_phase(request)) is not None and moved.problem is None:
        yield moved.text


def _moved_phase(request: Request) -> Moved | None:
    found = newest_first(entries_in(request.run_dir.checkpoints))
    usable = (entry for entry in found if isinstance(entry, Checkpoint) and entry.manifest.health != "abandoned")
    newest = next(usable, None)
    return None if newest is None else moved_phase(request.config, newest.manifest, request.run_dir)


def _free_space(request: Request) -> Iterator[str]:
    existing = request.nearest_folder
    needed = NUM_CHECKPOINTS * checkpoint_bytes(request.config)
    place = folder if (folder := request.run_dir.checkpoints).is_dir() else existing  # it may lie on another disk
    free = shutil.disk_usage(place).free
    if free < needed:
        yield (
            f"only {free / 2**30:,.1f} GiB are free in {place}, but {NUM_CHECKPOINTS} checkpoints take about "
            f"{needed / 2**30:,.1f} GiB; make room, or choose another directory with --run-dir"
        )


def _lead_time(request: Request) -> Iterator[str]:
    """Yield a warning if the lead time is too short to save, going by the last steps and saves of earlier launches."""
    run_dir, lead_s = request.run_dir, request.config.launch.signal_lead_s
    if not run_dir.metrics.is_file():
        return
    steps = last_records(run_dir.metrics, _NUM_STEPS)
    step_s = max((record.values.get(STEP_TIME_S, 0.0) for record in steps), default=0.0)
    save_s = max((event.seconds for event in last_events(run_dir.events) if isinstance(event, Saved)), default=0.0)
    wanted = LEAD_FACTOR * (step_s + save_s)
    if lead_s < wanted:
        yield (
            f"launch.signal_lead_s is {lead_s}, but the longest step took {step_s:.1f} s and the longest save "
            f"{save_s:.1f} s; take at least {wanted:.0f}, or the time limit may come before the save is done"
        )


def _waiting_commands(request: Request) -> Iterator[str]:
    folder = request.run_dir.signals
    names = sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if commands := ", ".join(n for n in names if not is_being_written(n) and not n.startswith("slurm-")):
        yield f"commands wait in {folder} and take effect at the start: {commands}; remove those you do not want"


def _spanning_groups(request: Request) -> Iterator[str]:
    for place, parallel in parallel_sections(request.config).items():
        if parallel.tensor_model_parallel_size > request.workers_per_node:
            yield (
                f"{place}.tensor_model_parallel_size {parallel.tensor_model_parallel_size} spans nodes of "
                f"{request.workers_per_node} ranks: every layer then waits for the network between nodes"
            )


def _packages_of_many_nodes(request: Request) -> Iterator[str]:
    """Yield a warning if many nodes are to read their packages from one shared disk."""
    launch = request.config.launch
    if request.nodes < MANY_NODES or launch.container_image is not None:
        return
    folder = Path(launch.python or sys.executable).absolute().parent.parent
    if (kind := file_system_of(folder)) in SHARED_FILE_SYSTEMS:
        yield (
            f"the Python packages in {folder} are on a disk that nodes share ({kind}): {request.nodes} nodes read "
            "thousands of files of it at each start, which takes minutes. Name an image (launch.container_image), or "
            "copy the environment to the disk of each node (launch.environment_file can) and set launch.python"
        )


def _shortages(request: Request) -> Iterator[str]:
    """Yield the channels whose parts do not have enough tokens yet. Further parts may arrive while the run goes on."""
    if (plan := _plan(request)) is not None:
        found = demands(request.config, plan)
        yield from filter(None, (demand.shortage() for demand in found))
        yield from repetition_notes(found)


def _passes(request: Request) -> Iterator[str]:
    if (plan := _plan(request)) is not None:
        yield from limit_problems(request.config, demands(request.config, plan))


def _plan(request: Request) -> Plan | None:
    """Return the plan; None if the layout does not fit, which `_layout` reports."""
    try:
        return make_plan(request.config, request.world_size)
    except ConfigError:
        return None


def _is_readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


_ERRORS: dict[str, Check] = {
    "layout: it fits the nodes in every phase": _layout,
    "workers: at most one a GPU": _workers,
    "tokenizer: it can be read, and the channels were made with it": _tokenizer,
    "channels: files, sizes and index headers of all parts": _channels,
    "passes through channels: no more than phases.N.max_epochs allows": _passes,
    "environment file and container image": _job_files,
    "alerts: every address is understood, and its package is installed": _alerts,
    "flags for sbatch, and the request for GPUs": _flags,
    "time limit and lead time": _time,
    "run directory: it can be written, and nobody trains there": _run_directory,
    "phases that have begun: they go on as they were": _begun_phases,
    f"disk: room for {NUM_CHECKPOINTS} checkpoints": _free_space,
}
"""Checks by their description; each yields the reasons not to queue the job."""
CHECKED = tuple(_ERRORS)
_WARNINGS: tuple[Check, ...] = (
    _tokenizer_notes,
    _told_phases,
    _lead_time,
    _waiting_commands,
    _alert_notes,
    _spanning_groups,
    _packages_of_many_nodes,
    _shortages,
)
