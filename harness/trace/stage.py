"""Traces two steps of one rank of a pipeline stage in this process: the real model, schedule and optimizer on `meta`.

The first step makes what later ones find, such as the moments; the second is recorded. Run as a module, it reads a
request from standard input as one line of JSON, writes the findings as one line to standard output, and ends when
standard input does.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from harness.config.phase_settings import in_phase
from harness.config.schema import Config
from harness.data.batch import Batch, collate
from harness.model.mcore import build_model
from harness.optim.mcore import Optimizer
from harness.parallel import cpu, imagined_world
from harness.parallel import mcore as parallel
from harness.parallel.ranks import Ranks
from harness.plan.plan import PhasePlan, Plan, make_plan
from harness.trace.findings import StageFindings
from harness.trace.kernels import STAND_INS
from harness.trace.observer import META, HostQuestions, Operators
from harness.trace.recorder import Recorder
from harness.trace.request import Request
from harness.trace.substitutions import substitute_all
from harness.train.components.mcore import Pipeline


def trace_stage(request: Request) -> StageFindings:
    """Trace a stage. The process is of no other use afterwards: it computes on nothing, in a world of its own."""
    cpu.compute_on(META)
    substitute_all()
    plan = make_plan(request.config, request.world_sizes, request.phase_index)
    rank = request.pipeline_rank * (plan.layout.world_size // plan.layout.pipeline)
    imagined_world.join(plan.layout.world_size, rank=rank)
    ranks = parallel.start(plan.layout, rank=rank, device=META, seed=1)
    assert ranks.pp.rank == request.pipeline_rank, "the stages of a pipeline are equally many ranks apart"
    stage = ("stage", parallel.stage_group())  # the last name of equal groups counts
    kinds = (stage, *parallel.groups_by_kind().items(), *parallel.replica_groups().items())
    names = {imagined_world.ranks_of(group): str(kind) for kind, group in kinds}
    recorder = Recorder()
    columns = request.config.model.padded_vocab_size // plan.layout.tensor
    with HostQuestions(recorder, STAND_INS), Operators(recorder, names, columns):
        return _take_steps(request, plan, ranks, recorder)


def _take_steps(request: Request, plan: Plan, ranks: Ranks, recorder: Recorder) -> StageFindings:
    settings, phase = in_phase(request.config, request.phase_index), plan.phases[request.phase_index]
    chunks = build_model(settings, plan, ranks, META)
    optimizer = Optimizer(settings, list(chunks))
    pipeline = Pipeline(
        chunks,
        ranks,
        settings.model,
        num_channels=len(request.config.data.channels),
        micro_batch_size=phase.micro_batch_size,
        seq_length=phase.seq_length,
    )
    num_microbatches = min(phase.num_microbatches, request.most_microbatches)
    batch = _batch(settings, phase) if ranks.reads_tokens else None
    for is_recorded in (False, True):
        if is_recorded:
            _say_what_stays(recorder, chunks, optimizer)
            recorder.begin()
        # As harness.train.steps.step does.
        optimizer.zero_grad()
        sums = pipeline.forward_backward(
            [batch] * num_microbatches,
            expected_tokens=num_microbatches * phase.micro_batch_size * phase.seq_length * plan.layout.data,
            flags=(False,),
        )
        pipeline.read(sums, optimizer.prepare(sums.gradient_scale))
        optimizer.update(phase.peak_learning_rate)
    return recorder.findings(pipeline_rank=request.pipeline_rank, num_microbatches=num_microbatches)


def _say_what_stays(recorder: Recorder, chunks: Sequence[Any], optimizer: Optimizer) -> None:
    """Assign to their parts what stays from step to step. fp32 weights are their own masters, and are weights."""
    recorder.ledger.assign(recorder.ledger.keys(), "temporary")
    parameters = [parameter for chunk in chunks for parameter in chunk.parameters()]
    recorder.ledger.assign(_keys(optimizer.tensors()), "optimizer")
    recorder.ledger.assign(_keys(parameters), "weights")
    recorder.ledger.assign(_keys(parameter.main_grad for parameter in parameters), "gradients")


def _keys(tensors: Iterable[torch.Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def _batch(settings: Config, phase: PhasePlan) -> Batch:
    """Return a micro-batch of one document a sample."""
    width = phase.seq_length + 1
    return collate(
        np.zeros((phase.micro_batch_size, width), dtype=np.int64),
        [[width]] * phase.micro_batch_size,
        np.zeros(phase.micro_batch_size, dtype=np.int64),
        reset_at_document_borders=settings.data.reset_at_document_borders,
    )


def main() -> None:
    """Trace the stage that standard input asks for."""
    request = Request.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    findings = json.dumps(trace_stage(request).as_json())
    sys.stdout.write(f"{findings}\n")
    sys.stdout.flush()
    os._exit(0)  # thousands of groups and tensors of an imagined world need no tidying up


def _end_with_input() -> None:
    """End this process when who asked is gone."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
