"""Traces a stage in a process of its own: a process that traces computes on nothing from then on."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection

from forkserver import warm_context

from harness.config.schema import Config
from harness.plan.plan import make_plan
from harness.trace.findings import StageFindings
from harness.trace.request import Request, requests_for

TIMEOUT_S = 240


def trace(
    config: Config, world_size: int, pipeline_rank: int = 0, before: Callable[[], None] | None = None
) -> StageFindings:
    """Trace a pipeline rank of a configuration; `before` is called first in the process that does."""
    plan = make_plan(config, world_size)
    request = requests_for(config, plan, plan.phases[0])[pipeline_rank]
    ours, theirs = warm_context().Pipe()
    process = warm_context().Process(target=_trace, args=(theirs, request, before))
    process.start()
    theirs.close()
    try:
        assert ours.poll(TIMEOUT_S), f"no findings within {TIMEOUT_S} s"
        answer = ours.recv()
    finally:
        process.kill()
        process.join()
    assert isinstance(answer, StageFindings), answer
    return answer


def _trace(connection: Connection, request: Request, before: Callable[[], None] | None) -> None:
    warnings.simplefilter("ignore")
    import torch

    from harness.trace.stage import trace_stage

    torch.set_num_threads(1)
    try:
        if before is not None:
            before()
        connection.send(trace_stage(request))
    except BaseException:  # noqa: BLE001 (sent to the test, which fails with it)
        connection.send(traceback.format_exc())
    connection.close()
    os._exit(0)  # as a trace does: what is left of an imagined world need not be tidied up
