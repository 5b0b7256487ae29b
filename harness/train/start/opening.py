"""Opens a run: builds its parts, connects them, and loads the state to go on from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import torch

from harness.checkpoint.cuda_copy import copy_from
from harness.checkpoint.node_folder import NodeFolder
from harness.checkpoint.saving.mcore import Saver
from harness.config.phase_settings import in_phase, with_forgetting
from harness.config.schema import Config
from harness.errors import LayoutError
from harness.metrics.recorder import Recorder
from harness.metrics.sinks import Outlets
from harness.metrics.tensorboard import write_hyperparameters
from harness.model.attention import core as attention
from harness.model.mcore import build_model
from harness.optim.mcore import Optimizer
from harness.parallel import collectives
from harness.parallel import mcore as parallel
from harness.parallel.environment import heartbeat_folder
from harness.parallel.ranks import Ranks
from harness.plan.demand import demands, repetition_notes
from harness.plan.layouts import phase_world_sizes
from harness.plan.plan import PhasePlan, Plan, make_plan
from harness.plan.plan_text import plan_text
from harness.run import resume_failures
from harness.run.begun_phases import require_planned
from harness.run.checkpoints.choice import Resume
from harness.run.checkpoints.signature import SigningKey, read_key
from harness.run.checkpoints.store import CheckpointStore
from harness.run.checkpoints.verify import HashFiles
from harness.run.commands.mailbox import Mailbox
from harness.run.commands.os_signals import SignalFlags
from harness.run.commands.reach import rollback_problem
from harness.run.event_types import Exit, PassedOver
from harness.run.events import append_event
from harness.run.fence import Fence, reporting_takeover
from harness.run.files import replace_file
from harness.run.heartbeats import Heartbeat
from harness.run.launch_folder import hyperparameters
from harness.run.launches import begun_of_newest
from harness.run.old_logs import remove_old_logs
from harness.run.paths import RunDir
from harness.train.components.agreement import raising_together
from harness.train.components.alarms import Alarms
from harness.train.components.belongings import RunBelongings, belongings_for
from harness.train.components.desk import Desk
from harness.train.components.findings import found_by_rank_0
from harness.train.components.found import Start, find_start, take_possession
from harness.train.components.identity import other_versions, versions
from harness.train.components.in_flight import InFlight
from harness.train.components.inbox import Inbox
from harness.train.components.lookout import Lookout
from harness.train.components.mcore import Pipeline
from harness.train.components.nearby import Nearby, folder_of, nearest
from harness.train.components.open_data import RunData, list_channels, open_data
from harness.train.components.run_tokenizer import open_run_tokenizer
from harness.train.components.stages import Stages
from harness.train.decide import Milestones
from harness.train.run import Run
from harness.train.start.loading import require_same_data, restore
from harness.train.state import TrainState
from harness.train.steps.phases import apply_settings
from harness.train.world import World


@contextmanager
def open_run(config: Config, run_dir: RunDir, resume: Resume, world: World) -> Iterator[tuple[Run, TrainState]]:
    """Yield the run and the state to go on from; close everything at the end. Every rank must enter it.

    Raises:
        RunInUseError: Another process trains in this run directory.
        DataError: A channel or the tokenizer is missing, damaged, or does not fit the configuration.
        CheckpointError: There are checkpoints but none can be used, or it belongs to another model or other data.
        ConfigError: A phase that has begun was changed, and nobody has confirmed it.
    """
    whole = make_plan(config, phase_world_sizes(config, world.size))
    with ExitStack() as closing:
        heartbeat = closing.enter_context(_heartbeat(run_dir, world.rank))
        signals = SignalFlags()
        signals.install(is_starting=True)
        closing.callback(signals.restore)
        stages = Stages("join")
        joined = _join(world, signals)
        stages.enter("find")
        closing.callback(parallel.end)
        store, start = _agreed_start(joined, config, run_dir, resume, closing)
        given, config = config, with_forgetting(config, has_other_weights=start.has_other_weights)
        folder = folder_of(config, run_dir, world.rank)
        start = nearest(start, folder, config, whole, run_dir, is_writer=joined.is_writer)
        phase = whole.phase_of(start.step + 1)
        _require_ranks(phase, world.size, start, run_dir, is_writer=joined.is_writer)
        stages.enter("groups")
        plan = replace(whole, layout=phase.layout, layers_per_stage=phase.layers_per_stage)
        ranks = parallel.start(phase.layout, rank=world.rank, device=world.device, seed=config.run.seed)
        stages.enter("data")
        start = _with_channels(config, plan, ranks, start)
        with raising_together(ranks):
            data, belongings, remarks = _open_inputs(config, plan, ranks, start, world, closing)
            if joined.is_writer:
                remarks += _told(config, whole, start, run_dir)
            start = replace(start, remarks=tuple(remarks))
        parts = _Parts(
            config=config,
            plan=plan,
            phase=phase,
            ranks=ranks,
            device=world.device,
            data=data,
            belongings=belongings,
        )
        stages.enter("build")
        run = _introduced(
            parts,
            store=store,
            links=_linked(parts, store, start, signals, closing),
            heartbeat=heartbeat,
            nearby=_nearby(folder, start, config),
        )
        closing.callback(run.in_flight.discard)
        if run.nearby is not None:
            closing.callback(run.nearby.close)
        blamed = resume_failures.recording(
            run_dir, start.path, start=start.name, rank=world.rank, is_of_another_rank=collectives.is_lost_connection
        )
        with blamed, reporting_takeover(store.fence):
            yield run, restore(run, start, stages, given)


def _told(config: Config, plan: Plan, start: Start, run_dir: RunDir) -> list[str]:
    """Return what people should know: phases that were changed, channels that are passed through very often.

    Raises:
        ConfigError: A phase that has begun was changed, and nobody has confirmed it.
    """
    changed = [] if start.manifest is None else require_planned(config, start.manifest, run_dir)
    return [*changed, *(f"warning: {note}" for note in repetition_notes(demands(config, plan)))]


def _heartbeat(run_dir: RunDir, rank: int) -> Heartbeat:
    """Return the heartbeat of a rank: on its node if a launcher gathers those of the node, otherwise in the run."""
    in_run, folder = run_dir.heartbeat(rank), heartbeat_folder()
    return Heartbeat(in_run if folder is None else folder / in_run.name, rank)


def _join(world: World, signals: SignalFlags) -> Ranks:
    """Join the other ranks.

    Raises:
        HarnessError: They did not come in time.
        StoppedAtStartError: This rank or another was told to stop, and some did not come.
    """
    return parallel.join(
        world.size,
        rank=world.rank,
        device=world.device,
        init_method=world.init_method,
        is_told_to_stop=signals.asks_to_leave,
    )


def _agreed_start(
    joined: Ranks, config: Config, run_dir: RunDir, resume: Resume, closing: ExitStack
) -> tuple[CheckpointStore, Start]:
    """Return where to go on from, the same on every rank; the store is that of the run's owner on the writer only.

    Raises:
        HarnessError: As `_taken` raises it, on every rank.
    """
    with raising_together(joined):
        taken = found_by_rank_0(joined, partial(_taken, config, run_dir, resume, closing))
    store, found = taken or (CheckpointStore(run_dir, None, None), None)
    start = collectives.from_rank_0(found)
    assert start is not None, "rank 0 always finds a start"
    return store, start


def _nearby(folder: NodeFolder | None, start: Start, config: Config) -> Nearby | None:
    return None if folder is None else Nearby(folder=folder, start=start.name, kept=config.checkpoint.snapshots_kept)


def _taken(
    config: Config, run_dir: RunDir, resume: Resume, closing: ExitStack, hash_files: HashFiles
) -> tuple[CheckpointStore, Start]:
    """Take the run directory, and find where to go on from, on the writer.

    Raises:
        RunInUseError: Another process trains in it.
        CheckpointError: There are checkpoints but none can be used.
    """
    store = CheckpointStore(run_dir, take_possession(run_dir, closing), _signing_key(config))
    return store, find_start(store, resume, hash_files)


def _with_channels(config: Config, plan: Plan, ranks: Ranks, start: Start) -> Start:
    """Give every rank the channels that the first rank finds: nobody else looks at the files of all parts.

    Raises:
        DataError: A channel is missing or damaged.
    """
    with raising_together(ranks):
        channels = found_by_rank_0(ranks, lambda _: list_channels(config, plan, start))
    return replace(start, channels=collectives.from_rank_0(channels or ()))


def _open_inputs(
    config: Config, plan: Plan, ranks: Ranks, start: Start, world: World, closing: ExitStack
) -> tuple[RunData, RunBelongings, list[str]]:
    """Open the data, and hold the checkpoint against it; read what its checkpoints have for an export, on the writer.

    Returns also what differs from the checkpoint and may.

    Raises:
        DataError: A channel or the tokenizer is missing, damaged, or does not fit the configuration.
        CheckpointError: The checkpoint belongs to another model or other data, or cannot be read.
    """
    tokenizer = open_run_tokenizer(config, start.manifest)
    data = open_data(config, plan, ranks, tokenizer, start, device=world.device)
    closing.callback(data.close)
    remarks = require_same_data(config, plan, data, start)
    belongings = belongings_for(tokenizer.opened, start.entry) if ranks.is_writer else RunBelongings()
    return data, belongings, remarks


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """The inputs of model and optimizer, and what checkpoints hold besides them."""

    config: Config
    plan: Plan
    phase: PhasePlan
    ranks: Ranks
    device: torch.device
    data: RunData
    belongings: RunBelongings


@dataclass(frozen=True, kw_only=True)
class _Links:
    """The ways by which a rank hears of commands and writes. Only the writer has all of them."""

    desk: Desk
    housekeeping: Desk
    recorder: Recorder | None
    inbox: Inbox


def _linked(parts: _Parts, store: CheckpointStore, start: Start, signals: SignalFlags, closing: ExitStack) -> _Links:
    """Connect the rank with people and files. At the end each thread does what is left before the run is let go."""
    config, run_dir, is_writer = parts.config, store.run_dir, parts.ranks.is_writer
    desk, housekeeping = Desk("desk"), Desk("housekeeping")
    closing.callback(desk.close)
    recorder = _open_recorder(parts, store, start, desk) if is_writer else None
    if recorder is not None:
        closing.callback(recorder.close)
    closing.callback(housekeeping.close)
    lookout = None
    if is_writer:
        housekeeping.hand(partial(remove_old_logs, run_dir, config.launch.keep_logs))
        problem_of = partial(rollback_problem, run_dir, config)
        lookout = Lookout(Mailbox(run_dir, problem_of=problem_of, begun=begun_of_newest(run_dir)))
        closing.callback(lookout.close)
    inbox = Inbox(lookout, signals, parts.device, fence=store.fence, desk=desk, data=parts.data)
    return _Links(desk=desk, housekeeping=housekeeping, recorder=recorder, inbox=inbox)


def _signing_key(config: Config) -> SigningKey | None:
    path = config.checkpoint.signature_key_file
    return None if path is None else read_key(path)


def _require_ranks(phase: PhasePlan, world_size: int, start: Start, run_dir: RunDir, *, is_writer: bool) -> None:
    """Leave if the phase in which the run goes on needs another number of ranks, with an event for the launcher.

    Raises:
        LayoutError: It needs another number.
    """
    needed = phase.layout.world_size
    if needed == world_size:
        return
    error = LayoutError(
        f"phase {phase.name}, which follows step {start.step}, needs {needed} ranks, and {world_size} were started. "
        f"Start {needed}; `harness train` without torchrun or srun does so by itself."
    )
    if is_writer:
        left = Exit(
            attempt=start.attempt,
            step=start.step,
            exit_code=error.exit_code,
            reason=str(error),
            next_phase=phase.name,
        )
        with suppress(OSError):
            append_event(run_dir.events, left)
    raise error


def _introduced(
    parts: _Parts,
    *,
    store: CheckpointStore,
    links: _Links,
    heartbeat: Heartbeat,
    nearby: Nearby | None,
) -> Run:
    """Return the run. Model and optimizer are built here, with initial weights and the settings of the phase."""
    config, plan, phase, ranks, device = parts.config, parts.plan, parts.phase, parts.ranks, parts.device
    if links.recorder is not None and (problem := attention.slow_kernels_on(device)):
        links.recorder.message(f"warning: {problem}")
    settings = in_phase(config, phase.index)
    chunks = build_model(settings, plan, ranks, device)
    pipeline = Pipeline(
        chunks,
        ranks,
        settings.model,
        num_channels=len(parts.data.channel_names),
        micro_batch_size=phase.micro_batch_size,
        seq_length=phase.seq_length,
    )
    optimizer = Optimizer(settings, list(chunks))
    apply_settings(pipeline, optimizer, settings)
    run = Run(
        config=config,
        plan=plan,
        phase=phase,
        settings=settings,
        run_dir=store.run_dir,
        ranks=ranks,
        device=device,
        milestones=Milestones.of(config, plan, phase.index),
        pipeline=pipeline,
        optimizer=optimizer,
        saver=Saver(chunks, optimizer.megatron, copy_from(device)),
        data=parts.data,
        store=store,
        inbox=links.inbox,
        recorder=links.recorder,
        desk=links.desk,
        housekeeping=links.housekeeping,
        alarms=Alarms(store.run_dir),
        heartbeat=heartbeat,
        in_flight=InFlight(),
        nearby=nearby,
        belongings=parts.belongings.files,
    )
    for note in parts.belongings.notes:
        run.announce(note)
    return run


def _open_recorder(parts: _Parts, store: CheckpointStore, start: Start, desk: Desk) -> Recorder:
    config, plan, data, run_dir = parts.config, parts.plan, parts.data, store.run_dir
    assert store.fence is not None, "the writer has taken the run"
    with suppress(OSError):  # for people; the recorder reports a full disk
        replace_file(run_dir.plan, plan_text(config, plan))
    if config.logging.tensorboard:
        with suppress(ImportError, OSError):  # the recorder reports both
            write_hyperparameters(
                run_dir.tensorboard, hyperparameters(config), run=str(run_dir.root.absolute()), clock=time.time
            )
    recorder = Recorder(
        run_dir,
        config.logging,
        train_steps=plan.train_steps,
        channels=data.channel_names,
        resume_step=start.step,
        outlets=Outlets(require_owner=partial(_require_held, store.fence), hand=desk.hand),
    )
    for text in start.passed_over:
        recorder.event(PassedOver(attempt=start.attempt, step=start.step, reason=text))
        recorder.message(f"warning: {text}")
    if start.entry is None:
        recorder.message(f"starting {config.run.name} anew in {run_dir.root}, seed {config.run.seed}")
    else:
        recorder.message(f"resuming {config.run.name} from {start.entry.path} (step {start.entry.step})")
        if changed := other_versions(start.entry.manifest.versions, versions()):
            recorder.message(changed)
    for note in data.notes:
        recorder.message(note)
    if start.snapshot is not None:
        recorder.message(
            f"and from there by the ranks' snapshots of step {start.step} in {config.checkpoint.snapshot_folder}"
        )
    for text in start.remarks:
        recorder.message(text)
    return recorder


def _require_held(fence: Fence) -> None:
    """Raise an error if another process has taken the run. An error of the file system does not end the training."""
    with suppress(OSError):
        fence.require_held()
