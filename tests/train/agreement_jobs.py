"""Jobs for the pool: errors that one rank meets."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace


def refused_on_rank_0(rank: int, world_size: int, init_method: str) -> tuple[int, str]:
    """Exit code and text of what leaves the block."""
    import torch

    from harness.errors import HarnessError
    from harness.train.components.agreement import raising_together

    torch.distributed.init_process_group("gloo", init_method=init_method, rank=rank, world_size=world_size)
    try:
        with raising_together(SimpleNamespace(is_writer=rank == 0)):  # type: ignore[arg-type]
            if rank == 0:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/run/metrics.jsonl")
    except HarnessError as error:
        return error.exit_code, str(error)
    except SystemExit as left:
        return int(str(left.code)), ""
    finally:
        torch.distributed.destroy_process_group()
    return 0, ""
