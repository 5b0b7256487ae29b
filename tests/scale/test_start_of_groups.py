"""Groups of a layout at 16,384 ranks, of which one is real: what each rank does for them, and what it does not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from harness.parallel import mcore as parallel
from harness.plan.layouts import Layout

sizes = json.loads(sys.argv[1])
layout = Layout(**sizes)
made, backends = 0, set()
original = dist.new_group

def counted(*arguments, **options):
    global made
    made += 1
    backends.add(options.get("backend"))
    return original(*arguments, **options)

dist.new_group = counted
dist.distributed_c10d.new_group = counted
torch.distributed.new_group = counted
dist.init_process_group(backend="fake", store=FakeStore(), rank=0, world_size=layout.world_size)
parallel.start(layout, rank=0, device=torch.device("cpu"), seed=1)
held = len(dist.distributed_c10d._world.pg_map)
print(json.dumps({"made": made, "held": held, "backends": sorted(map(str, backends))}))
"""


def groups_at(world_size: int) -> dict[str, object]:
    tensor, pipeline = 8, 16
    sizes = {
        "tensor": tensor,
        "pipeline": pipeline,
        "data": world_size // tensor // pipeline,
        "virtual_pipeline": 1,
        "context": 1,
    }
    command = [sys.executable, "-c", PROGRAM, json.dumps(sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_rank_holds_as_many_groups_in_a_cluster_as_on_a_desk() -> None:
    few, many = groups_at(256), groups_at(16384)
    assert many["held"] == few["held"]
    assert many["backends"] == few["backends"] == ["None"]
