"""What a process that traces does; in a module of its own, so that it is found by its name there."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection

from harness.trace.request import Request


def send_findings(connection: Connection, request: Request, before: Callable[[], None] | None) -> None:
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
    os._exit(0)  # as a trace ends: torch may crash while it tidies up an imagined world
