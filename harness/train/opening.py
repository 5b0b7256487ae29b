"""Opens a run: introduces its parts to each other, and puts them into the state to go on from."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from harness.checkpoint import mcore as checkpoint_files
from harness.checkpoint.choice import Resume
from harness.checkpoint.compare import require_same
from harness.checkpoint.signature import SigningKey, read_key
from harness.checkpoint.store import CheckpointStore
from harness.config.phases import in_phase
from harness.config.schema import Config
from harness.data.cursor import Cursor
from harness.data.fingerprint import require_adopted
from harness.errors import CheckpointError, LayoutError
from harness.launch.folder import accept
from harness.metrics.heartbeat import Heartbeat, Phase
from harness.metrics.recorder import Outlets, Recorder
from harness.model import attention
from harness.model.mcore import build_model
from harness.optim.mcore import Optimizer
from harness.parallel import collectives
from harness.parallel import mcore as parallel
from harness.parallel.ranks import Ranks
from harness.plan.layouts import phase_world_sizes
from harness.plan.plan import PhasePlan, Plan, make_plan
from harness.plan.report import plan_text
from harness.run_dir import RunDir
from harness.signals.fence import Fence, explaining
from harness.signals.os_signals import SignalFlags
from harness.train import failures
from harness.train.adoption import write_down
from harness.train.agreement import heard_by_all
from harness.train.data import RunData, open_data
from harness.train.decide import Milestones
from harness.train.in_flight import InFlight
from harness.train.mcore import Pipeline
from harness.train.orders import Orders
from harness.train.phases import settle
from harness.train.report import introduction
from harness.train.restored import require_restored
from harness.train.run import Run
from harness.train.start import Start, find_start, take_possession
from harness.train.state import TrainState
from harness.train.world import World


@contextmanager
def open_run(config: Config, run_dir: RunDir, resume: Resume, world: World) -> Iterator[tuple[Run, TrainState]]:
    """The run and the state to go on from. Every rank must enter it; everything is closed at the end.

    Raises:
        RunInUseError: Another process trains in this run directory.
        DataError: A channel or the tokenizer is missing, damaged, or does not fit the configuration.
        CheckpointError: There are checkpoints but none can be used, or it belongs to another model or other data.
    """
    whole = make_plan(config, phase_world_sizes(config, world.size))
    with ExitStack() as closing:
        heartbeat = closing.enter_context(Heartbeat(run_dir.heartbeat(world.rank), world.rank))
        signals = SignalFlags()
        signals.install()
        closing.callback(signals.restore)
        joined = parallel.join(world.size, rank=world.rank, device=world.device, init_method=world.init_method)
        closing.callback(parallel.end)
        with heard_by_all(joined):
            fence = take_possession(run_dir, closing) if joined.is_writer else None
            store = CheckpointStore(run_dir, fence, _signing_key(config) if fence is not None else None)
            found = find_start(store, resume) if joined.is_writer else None
        start = collectives.from_rank_0(found)
        assert start is not None, "rank 0 always finds a start"
        phase = whole.phase_of(start.step + 1)
        _require_ranks(phase, world.size, start, run_dir, is_writer=joined.is_writer)
        plan = replace(whole, layout=phase.layout, layers_per_stage=phase.layers_per_stage)
        ranks = parallel.start(phase.layout, rank=world.rank, device=world.device, seed=config.run.seed)
        with heard_by_all(ranks):
            data = open_data(config, plan, ranks, pin_memory=world.device.type == "cuda", num_parts=start.num_parts)
        closing.callback(data.close)
        with heard_by_all(ranks):
            _require_same_data(config, plan, data, start)
        run = _introduced(
            _Parts(config=config, plan=plan, phase=phase, ranks=ranks, device=world.device, data=data),
            store=store,
            orders=Orders(run_dir, ranks, signals, world.device, fence=fence, arrivals=data.arrivals),
            recorder=_open_recorder(config, plan, store, data, start, closing) if ranks.is_writer else None,
            heartbeat=heartbeat,
        )
        closing.callback(run.in_flight.discard)
        with failures.noted(run_dir, start.path, start=start.name, rank=world.rank), explaining(fence):
            yield run, _restore(run, start)


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What model and optimizer are made from."""

    config: Config
    plan: Plan
    phase: PhasePlan
    ranks: Ranks
    device: torch.device
    data: RunData


def _signing_key(config: Config) -> SigningKey | None:
    path = config.checkpoint.signature_key_file
    return None if path is None else read_key(path)


def _require_ranks(phase: PhasePlan, world_size: int, start: Start, run_dir: RunDir, *, is_writer: bool) -> None:
    """Leaves if the phase in which the run goes on needs other ranks; the events, which the launcher reads, say so.

    Raises:
        LayoutError: It does.
    """
    needed = phase.layout.world_size
    if needed == world_size:
        return
    error = LayoutError(
        f"phase {phase.name}, which follows step {start.step}, needs {needed} ranks, and {world_size} were started. "
        f"Start {needed}; `harness train` without torchrun or srun does so by itself."
    )
    if is_writer:
        event: dict[str, object] = {"time": round(time.time(), 3), "kind": "exit", "attempt": start.attempt}
        event |= {"step": start.step, "exit_code": error.exit_code, "reason": str(error), "next_phase": phase.name}
        with suppress(OSError), run_dir.events.open("a") as events:
            events.write(json.dumps(event) + "\n")
    raise error


def _require_same_data(config: Config, plan: Plan, data: RunData, start: Start) -> None:
    """Refuses to go on from a checkpoint of other data, or of phases that were another way.

    Raises:
        CheckpointError: It belongs to another model, other data or other phases.
        DataError: Parts that were adopted are no longer there.
    """
    if start.entry is not None:
        cursor = Cursor.from_json(start.entry.manifest.cursor)
        expected = plan.phase_of(start.step + 1)
        if cursor.phase > expected.index:
            raise CheckpointError(
                f"the checkpoint of step {start.step} is in phase {cursor.phase + 1} of its run, but by this "
                f"configuration step {start.step + 1} belongs to phase {expected.index + 1}, {expected.name}. Phases "
                "that have begun stay as long as they were; give the configuration with which it was saved, or go on "
                "from an earlier checkpoint."
            )
        recorded = start.entry.manifest.fingerprint
        require_same(recorded, _promised(recorded, data.fingerprint(cursor)), allow_added_parts=True)
    require_adopted(data.stream.channels, start.journal)


def _introduced(
    parts: _Parts, *, store: CheckpointStore, orders: Orders, recorder: Recorder | None, heartbeat: Heartbeat
) -> Run:
    """The run: model and optimizer are built here, with their first weights, and put into the phase."""
    config, plan, phase, ranks, device = parts.config, parts.plan, parts.phase, parts.ranks, parts.device
    if recorder is not None and (problem := attention.slow_kernels_on(device)):
        recorder.message(f"warning: {problem}")
    settings = in_phase(config, phase.index)
    chunks = build_model(settings, plan, ranks, device)
    pipeline = Pipeline(
        chunks,
        ranks,
        num_channels=len(parts.data.channel_names),
        micro_batch_size=phase.micro_batch_size,
        seq_length=phase.seq_length,
    )
    optimizer = Optimizer(settings, list(chunks))
    settle(pipeline, optimizer, settings)
    return Run(
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
        data=parts.data,
        store=store,
        orders=orders,
        recorder=recorder,
        heartbeat=heartbeat,
        in_flight=InFlight(),
    )


def _open_recorder(
    config: Config, plan: Plan, store: CheckpointStore, data: RunData, start: Start, closing: ExitStack
) -> Recorder:
    run_dir = store.run_dir
    assert store.fence is not None, "the writer has taken the run"
    with suppress(OSError):  # for people; a full disk is told by the recorder
        run_dir.plan.write_text(plan_text(config, plan))
    recorder = Recorder(
        run_dir,
        config.logging,
        train_steps=plan.train_steps,
        channels=data.channel_names,
        resume_step=start.step,
        outlets=Outlets(require_owner=partial(_require_held, store.fence)),
    )
    closing.callback(recorder.close)
    for text in start.passed_over:
        recorder.event("passed-over", attempt=start.attempt, step=start.step, reason=text)
        recorder.message(f"warning: {text}")
    if start.entry is None:
        recorder.message(f"starting {config.run.name} anew in {run_dir.root}, seed {config.run.seed}")
    else:
        recorder.message(f"resuming {config.run.name} from {start.entry.path} (step {start.step})")
    return recorder


def _require_held(fence: Fence) -> None:
    """Raises if somebody else has taken the run; a file system that does not say so does not end the training."""
    with suppress(OSError):
        fence.require_held()


def _restore(run: Run, start: Start) -> TrainState:
    """Loads the checkpoint and makes sure that what follows is what would have followed. Every rank must call it."""
    run.heartbeat.enter(Phase.LOAD, start.step)
    if start.entry is None:
        state = TrainState(attempt=start.attempt).skipping(run.config.data.skip_windows)
        kind, fields = "started", {}
    else:
        manifest = start.entry.manifest
        state = TrainState.from_checkpoint(start.entry.path, manifest, attempt=start.attempt, is_as_loaded=True)
        state = state.skipping(run.config.data.skip_windows)
        with heard_by_all(run.ranks):
            _require_same_next_batch(run, _as_saved(run, state, start), manifest.next_batch_hash)
        if manifest.optimizer_norms:
            checkpoint_files.load(start.entry.path, run.pipeline.chunks, run.optimizer.megatron)
        else:  # converted from another format: weights only, the optimizer begins with moments of zero
            checkpoint_files.load_weights(start.entry.path, run.pipeline.chunks)
            run.optimizer.megatron.reload_model_params()
        require_restored(run, state.step, manifest.optimizer_norms)
        kind, fields = "resumed", {"path": str(start.entry.path)}
    state = replace(state, cursor=run.data.stream.begun(state.cursor.knowing(start.journal)))
    with heard_by_all(run.ranks):
        write_down(run, start.journal, state.cursor.history)
    if run.recorder is not None:
        _accept(run, run.recorder)
        run.recorder.event(kind, attempt=state.attempt, step=state.step, **fields)
        for text in introduction(run):
            run.recorder.message(text)
    return state


def _as_saved(run: Run, state: TrainState, start: Start) -> TrainState:
    """The state with the history that it was saved with, which older checkpoints did not hold."""
    before = (each for each in start.journal if each.position == 0)
    return replace(state, cursor=run.data.stream.begun(state.cursor.knowing(before)))


def _accept(run: Run, recorder: Recorder) -> None:
    """Writes the configuration as the run's, now that nothing speaks against it any more."""
    try:
        accept(run.run_dir, run.config)
    except OSError as error:
        recorder.message(f"warning: cannot write {run.run_dir.config}: {error.strerror}")


def _promised(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint can be held against: one that was converted has seen no data, and maybe no tokenizer."""
    return found if "data" in recorded else {key: value for key, value in found.items() if key in recorded}


def _require_same_next_batch(run: Run, state: TrainState, promised: str | None) -> None:
    if promised is None:
        return
    found = f"{run.data.stream.peek_hash(state.cursor) or 0:016x}"
    # Another batch size makes other batches out of the same samples: that is allowed.
    before = run.plan.phases[: run.phase.index]
    of_phase = run.phase.batch_sizes.samples_in(state.step + 1 - run.phase.first_step)
    same_batch_size = sum(phase.train_samples for phase in before) + of_phase == state.cursor.consumed_samples
    if found != promised and same_batch_size:
        raise CheckpointError(
            f"the next batch has the hash {found}, but the checkpoint of step {state.step} promised {promised}: the "
            "order of the data has changed. Use the version of harness that wrote the checkpoint, or start a new run."
        )
