"""Finds the rank, the channel and the samples that made a step not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from harness.channels.provenance_of_parts import Provenances
from harness.data.order.cursor import Positions, rank_positions
from harness.data.order.samples import ReadSample
from harness.data.signs import token_signs
from harness.parallel import collectives
from harness.run.event_types import NotFinite
from harness.run.evidence import write_evidence
from harness.train.run import Run
from harness.train.state import TrainState
from harness.train.steps.step import StepResult

Finding = dict[str, object]
Sums = dict[int, tuple[float, float]]
"""(summed loss, tokens) of samples by position."""


def blame(run: Run, state: TrainState, result: StepResult) -> None:
    """Write evidence of the samples whose loss is not finite, and report it. Every rank must call it.

    If all losses are finite, it names the ranks whose share of the gradient is not.
    """
    findings = _from_all_ranks(_own_samples(run, state, result)) or _from_all_ranks(_own_gradient(run))
    if run.recorder is None:
        return
    step, path = state.step, run.run_dir.evidence(state.step)
    try:
        path = run.desk.do(lambda: write_evidence(run.run_dir, step, with_provenance(run, findings)))
    except OSError as error:  # the rest is reported anyway
        run.recorder.message(f"warning: cannot write {path}: {error.strerror or error}")
    channels = sorted({str(finding["channel"]) for finding in findings if "channel" in finding})
    ranks = sorted({finding["rank"] for finding in findings}, key=str)
    event = NotFinite(
        attempt=state.attempt,
        step=step,
        loss=result.loss,
        grad_norm=result.grad_norm,
        channels=tuple(channels),
        ranks=tuple(ranks),
        evidence=str(path),
    )
    found = f"The samples are in {path}" if channels else f"The losses are finite, but not the gradient: see {path}"
    kept = f"the checkpoint {state.checkpoint} is unaffected" if state.checkpoint else "there is no checkpoint yet"
    run.announce(
        f"error: step {step} is not finite: loss {result.loss}, gradient norm {result.grad_norm}; ranks {ranks}, "
        f"channels {channels}. It was not applied and nothing was saved. {found}; {kept}. Find the cause, then start "
        "again.",
        event,
    )


def as_evidence(sample: ReadSample, step: int, loss: float, tokens: float) -> Finding:
    """Return the line of evidence of a sample, given its mean loss in nats and the tokens that count in it."""
    return {
        "step": step,
        "position": sample.position,
        "loss": loss if math.isfinite(loss) else None,
        "tokens": int(tokens),
        **sample.address.to_json(),
        "documents": [span.document for span in sample.documents],
        **token_signs(sample.tokens),
    }


def with_provenance(run: Run, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield lines of evidence that also say where their documents came from, as far as the channels record it."""
    paths = {name: channel.path for name, channel in run.config.data.channels.items()}
    with Provenances(paths) as provenances:
        for finding in findings:
            match finding:
                case {"channel": str(channel), "part": str(part), "documents": list(documents)}:
                    known = provenances.in_words(channel, part, documents)
                    yield {**finding, "provenance": known} if known else finding
                case _:
                    yield finding


def own_losses(run: Run, positions: Positions) -> Sums:
    """Return the losses of this rank's last micro-batches, given the positions of the whole global batch.

    Empty on ranks that are not on the last pipeline stage.
    """
    losses = run.pipeline.last_sample_losses()
    mine = rank_positions(
        positions,
        dp_rank=run.ranks.dp.rank,
        dp_size=run.ranks.dp.size,
        micro_batch_size=run.phase.micro_batch_size,
    )
    return dict(zip(mine.reshape(-1).tolist(), losses, strict=True)) if losses else {}


def _own_samples(run: Run, state: TrainState, result: StepResult) -> list[Finding]:
    """Return the samples of this rank whose loss is not finite (known on the last pipeline stage)."""
    losses = own_losses(run, result.data.positions)
    not_finite = [position for position, (loss, _) in losses.items() if not math.isfinite(loss)]
    positions = np.array(not_finite, dtype=np.int64)
    samples = run.data.stream.order(state.cursor).read_at(positions, run.phase.seq_length) if not_finite else ()
    return [
        {"rank": run.ranks.world.rank, **as_evidence(sample, state.step, math.nan, losses[sample.position][1])}
        for sample in samples
    ]


def _own_gradient(run: Run) -> list[Finding]:
    return [] if run.optimizer.gradient_is_finite() else [{"rank": run.ranks.world.rank, "finite_gradient": False}]


def _from_all_ranks(own: list[Finding]) -> list[Finding]:
    return [finding for findings in collectives.gathered(own) for finding in findings]
