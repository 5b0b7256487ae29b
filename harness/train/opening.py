"""Opens a run: introduces its parts to each other, and puts them into the state to go on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from harness.checkpoint import mcore as checkpoint_files
from harness.checkpoint.choice import Resume
from harness.checkpoint.compare import require_same
from harness.checkpoint.entries import Checkpoint
from harness.checkpoint.metadata_pickle import index_problem
from harness.checkpoint.store import CheckpointStore
from harness.config.schema import Config
from harness.data.cursor import Cursor
from harness.data.fingerprint import recorded_parts, require_adopted
from harness.data.history import History, num_parts_of
from harness.data.journal import read_journal
from harness.errors import CheckpointError, UsageError
from harness.metrics.heartbeat import Heartbeat, Phase
from harness.metrics.record import last_key
from harness.metrics.recorder import Outlets, Recorder
from harness.model import attention
from harness.model.mcore import build_model
from harness.optim.mcore import Optimizer
from harness.parallel import collectives
from harness.parallel import mcore as parallel
from harness.plan.plan import Plan, make_plan
from harness.plan.report import plan_text
from harness.run_dir import RunDir
from harness.signals.fence import Fence, explaining
from harness.signals.lock import RunLock
from harness.signals.os_signals import SignalFlags
from harness.train import failures
from harness.train.adoption import write_down
from harness.train.agreement import heard_by_all
from harness.train.data import RunData, open_data
from harness.train.decide import Milestones
from harness.train.in_flight import InFlight
from harness.train.mcore import Pipeline
from harness.train.orders import Orders
from harness.train.report import introduction
from harness.train.restored import require_restored
from harness.train.run import Run
from harness.train.state import TrainState
from harness.train.world import World


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What rank 0 found in the run directory; all ranks go on from it."""

    entry: Checkpoint | None
    passed_over: tuple[str, ...]
    attempt: int
    journal: History
    """When parts were adopted and documents put into quarantine, as the run has written it down."""
    name: str = field(default_factory=lambda: uuid4().hex)
    """Tells this start from every other one."""

    @property
    def path(self) -> Path | None:
        return self.entry.path if self.entry else None

    @property
    def step(self) -> int:
        return self.entry.step if self.entry else 0

    @property
    def num_parts(self) -> dict[str, int]:
        """How many parts of each channel the run has used so far."""
        if self.entry is None:
            return num_parts_of(self.journal)
        manifest = self.entry.manifest
        recorded = recorded_parts(manifest.fingerprint)
        return recorded | num_parts_of(Cursor.from_json(manifest.cursor).knowing(self.journal).history)


@contextmanager
def open_run(config: Config, run_dir: RunDir, resume: Resume, world: World) -> Iterator[tuple[Run, TrainState]]:
    """The run and the state to go on from. Every rank must enter it; everything is closed at the end.

    Raises:
        RunInUseError: Another process trains in this run directory.
        DataError: A channel or the tokenizer is missing, damaged, or does not fit the configuration.
        CheckpointError: There are checkpoints but none can be used, or it belongs to another model or other data.
    """
    plan = make_plan(config, world.size)
    if len(plan.phases) > 1:
        raise UsageError(f"one phase is trained in this version, given {len(plan.phases)}; remove the others")
    with ExitStack() as closing:
        heartbeat = closing.enter_context(Heartbeat(run_dir.heartbeat(world.rank), world.rank))
        signals = SignalFlags()
        signals.install()
        closing.callback(signals.restore)
        ranks = parallel.start(
            plan.layout, rank=world.rank, device=world.device, seed=config.run.seed, init_method=world.init_method
        )
        closing.callback(parallel.end)
        with heard_by_all(ranks):
            fence = _taken(run_dir, closing) if ranks.is_writer else None
            store = CheckpointStore(run_dir, fence)
            found = _find_start(store, resume) if ranks.is_writer else None
        start = collectives.from_rank_0(found)
        assert start is not None, "rank 0 always finds a start"
        with heard_by_all(ranks):
            data = open_data(config, plan, ranks, pin_memory=world.device.type == "cuda", num_parts=start.num_parts)
        closing.callback(data.close)
        with heard_by_all(ranks):
            if start.entry is not None:
                recorded = start.entry.manifest.fingerprint
                now = data.fingerprint(Cursor.from_json(start.entry.manifest.cursor))
                require_same(recorded, _promised(recorded, now), allow_added_parts=True)
            require_adopted(data.stream.channels, start.journal)
        recorder = _open_recorder(config, plan, store, data, start, closing) if ranks.is_writer else None
        if recorder is not None and (problem := attention.slow_kernels_on(world.device)):
            recorder.message(f"warning: {problem}")
        chunks = build_model(config, plan, ranks, world.device)
        run = Run(
            config=config,
            plan=plan,
            run_dir=run_dir,
            ranks=ranks,
            device=world.device,
            milestones=Milestones.of(config, plan.train_steps),
            pipeline=Pipeline(
                chunks,
                ranks,
                num_channels=len(data.stream.channel_names),
                micro_batch_size=config.parallel.micro_batch_size,
                seq_length=plan.phases[0].seq_length,
            ),
            optimizer=Optimizer(config, list(chunks)),
            data=data,
            store=store,
            orders=Orders(run_dir, ranks, signals, world.device, fence=fence, arrivals=data.arrivals),
            recorder=recorder,
            heartbeat=heartbeat,
            in_flight=InFlight(),
        )
        closing.callback(run.in_flight.discard)
        with failures.noted(run_dir, start.path, start=start.name, rank=world.rank), explaining(fence):
            yield run, _restore(run, start)


def _taken(run_dir: RunDir, closing: ExitStack) -> Fence:
    """Makes the run directory and takes it: from here on nobody else publishes in it."""
    try:
        run_dir.make_folders()
    except OSError as error:
        raise UsageError(
            f"cannot make the run directory {run_dir.root}: {error.strerror} ({error.filename}); "
            "choose another one with --run-dir"
        ) from None
    return closing.enter_context(RunLock(run_dir)).fence


def _find_start(store: CheckpointStore, resume: Resume) -> _Start:
    """Looks for what to go on from."""
    run_dir = store.run_dir
    store.clean_partials()
    choice = store.choose(resume, deep=True, healths=("clean", "suspect"), inspect=index_problem)
    if resume == "auto" and choice.entry is not None:
        failures.require_not_failed_twice(run_dir, choice.entry.path)
    if resume == "never":
        run_dir.order.unlink(missing_ok=True)
    return _Start(
        entry=choice.entry,
        journal=read_journal(run_dir.order),
        passed_over=tuple(f"passed over {path}: {reason}" for path, reason in choice.passed_over),
        attempt=_attempt(run_dir, choice.entry),
    )


def _attempt(run_dir: RunDir, entry: Checkpoint | None) -> int:
    """The attempt to go on in: a new one if steps were recorded that are now done again."""
    recorded = last_key(run_dir.metrics)
    resumed = (entry.manifest.attempt, entry.step) if entry else (0, 0)
    if recorded is None or recorded == resumed:
        return resumed[0]
    return max(recorded[0], resumed[0]) + 1


def _open_recorder(
    config: Config, plan: Plan, store: CheckpointStore, data: RunData, start: _Start, closing: ExitStack
) -> Recorder:
    run_dir = store.run_dir
    assert store.fence is not None, "the writer has taken the run"
    with suppress(OSError):  # for people; a full disk is told by the recorder
        run_dir.plan.write_text(plan_text(config, plan))
    recorder = Recorder(
        run_dir,
        config.logging,
        train_steps=plan.train_steps,
        channels=data.stream.channel_names,
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


def _restore(run: Run, start: _Start) -> TrainState:
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
        run.recorder.event(kind, attempt=state.attempt, step=state.step, **fields)
        for text in introduction(run):
            run.recorder.message(text)
    return state


def _as_saved(run: Run, state: TrainState, start: _Start) -> TrainState:
    """The state with the history that it was saved with, which older checkpoints did not hold."""
    before = (each for each in start.journal if each.position == 0)
    return replace(state, cursor=run.data.stream.begun(state.cursor.knowing(before)))


def _promised(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint can be held against: one that was converted has seen no data, and maybe no tokenizer."""
    return found if "data" in recorded else {key: value for key, value in found.items() if key in recorded}


def _require_same_next_batch(run: Run, state: TrainState, promised: str | None) -> None:
    if promised is None:
        return
    found = f"{run.data.stream.peek_hash(state.cursor) or 0:016x}"
    # Another batch size makes other batches out of the same samples: that is allowed.
    same_batch_size = run.phase.global_batch_size * state.step == state.cursor.consumed_samples
    if found != promised and same_batch_size:
        raise CheckpointError(
            f"the next batch has the hash {found}, but the checkpoint of step {state.step} promised {promised}: the "
            "order of the data has changed. Use the version of harness that wrote the checkpoint, or start a new run."
        )
