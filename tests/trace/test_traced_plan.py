from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.config.schema import Config
from harness.plan.memory import GIB, estimate_memory
from harness.plan.plan import make_plan
from harness.plan.plan_text import print_plan
from harness.trace.findings import Collective, HostWait, Made, Place, StageFindings, Tensors
from harness.trace.processes import Show
from harness.trace.request import Request, phases_to_trace, requests_for
from harness.trace.trace_text import TraceText
from harness.trace.traced_plan import trace_plan

MakeConfig = Callable[..., Config]
ROOT = Path(__file__).parents[2]

LOSS = Place(file="harness/model/loss.py", line=16, function="per_sample_sums")
LINEAR = Place(file="megatron/core/tensor_parallel/layers.py", line=488, function="Linear.forward")


def findings(rank: int, peak_gib: int = 4) -> StageFindings:
    product = Made(part="activations", place=LINEAR, operator="mm", shape=(6144, 16384), dtype="bfloat16")
    return StageFindings(
        pipeline_rank=rank,
        num_microbatches=4,
        peak_bytes=peak_gib * GIB,
        held=(Tensors(made=product, count=16, num_bytes=peak_gib * GIB),),
        made=(),
        host_waits=(HostWait(kind="item", place=LOSS, count=3),),
        collectives=(Collective(kind="all-reduce", group="tensor", num_ranks=2, count=8, num_bytes=GIB),),
    )


def traced(requests: Sequence[Request], show: Show) -> list[StageFindings]:
    return [findings(request.pipeline_rank, peak_gib=4 + request.pipeline_rank) for request in requests]


def lines_of(config: Config, world_size: int) -> str:
    console = Console(width=160, file=io.StringIO())
    TraceText(trace_plan(config, make_plan(config, world_size), lambda line: None, traced)).print(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_one_rank_of_each_stage_is_traced_with_what_fills_the_pipeline(make_config: MakeConfig) -> None:
    config = make_config(parallel={"pipeline_model_parallel_size": 2})
    plan = make_plan(config, 4)
    requests = requests_for(config, plan, plan.phases[0])
    assert [request.pipeline_rank for request in requests] == [0, 1]
    assert {(request.world_sizes, request.most_microbatches) for request in requests} == {((4,), 4)}
    assert Request.from_json(requests[1].as_json()) == requests[1]


def test_every_layout_is_traced_in_the_phase_that_needs_most(make_config: MakeConfig) -> None:
    (first,) = make_config().phases
    own = {"parallel": {"tensor_model_parallel_size": 2}}
    phases = [
        first.model_dump() | {"name": name, "seq_length": length, **parallel}
        for name, length, parallel in [("main", 2048, {}), ("long", 8192, {}), ("longest", 16384, own)]
    ]
    config = Config.model_validate(make_config().model_dump() | {"phases": phases})
    plan = make_plan(config, 4)
    assert [phase.name for phase in phases_to_trace(config, plan)] == ["long", "longest"]


def test_the_text_shows_stages_places_waits_and_collectives(make_config: MakeConfig) -> None:
    config = make_config(parallel={"pipeline_model_parallel_size": 2})
    text = lines_of(config, 2)
    assert "Trace of phase main" in text
    assert (
        "tensor 1 x pipeline 2 x context 1 x data 1; 4 of 32 micro-batches a step (more do not change the peak)" in text
    )
    estimate = estimate_memory(config, make_plan(config, 2).layout)[1].total_bytes / GIB
    stage_deviation = 100 * (estimate / 5 - 1)
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["1"])
    assert row[-5:] == ["5.00", "GiB", f"{estimate:.2f}", f"{stage_deviation:+.2f}", "%"]
    assert "At the peak of pipeline rank 1, largest first" in text
    assert "6144 x 16384 bfloat16  megatron/core/tensor_parallel/layers.py:488 Linear.forward" in text
    assert "The host waits for the device 3 times a step" in text
    assert "harness/model/loss.py:16 per_sample_sums" in text
    assert "tensor ranks (2)" in text


def test_the_plan_shows_the_trace_behind_it(make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config()

    def trace(config: Config, plan: Any) -> TraceText:
        return TraceText(trace_plan(config, plan, lambda line: None, traced))

    print_plan(config, 1, None, as_json=False, trace=trace)
    text = capsys.readouterr().out
    assert text.index("Legal layouts on 1 GPU") < text.index("Trace of phase main")
    print_plan(config, 1, None, as_json=True, trace=trace)
    (phase,) = json.loads(capsys.readouterr().out)["trace"]
    assert (phase["phase"], phase["num_microbatches"], phase["num_microbatches_traced"]) == ("main", 32, 4)
    (stage,) = phase["stages"]
    assert (stage["peak_bytes"], stage["activations_bytes"]) == (4 * GIB, 4 * GIB)
    assert stage["estimate"]["total_bytes"] == estimate_memory(config, make_plan(config, 1).layout)[0].total_bytes
    assert stage["held_at_peak"][0]["place"] == "megatron/core/tensor_parallel/layers.py:488"
    assert stage["host_waits"] == [
        {"kind": "item", "place": "harness/model/loss.py:16", "function": "per_sample_sums", "count": 3}
    ]


def test_a_plan_with_problems_is_not_traced(make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    def trace(config: Config, plan: Any) -> TraceText:
        raise AssertionError("there is nothing to trace")

    with pytest.raises(Exception, match="world size 3 is not a multiple of"):
        print_plan(make_config(parallel={"tensor_model_parallel_size": 2}), 3, None, as_json=True, trace=trace)
    assert "trace" not in json.loads(capsys.readouterr().out)


def test_the_process_that_asks_loads_no_torch() -> None:
    program = "import sys, harness.trace.trace_text; sys.exit(str({'torch', 'numpy', 'megatron'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_the_command_traces_every_stage(tmp_path: Path) -> None:
    pytest.importorskip("megatron.core")
    command = [sys.executable, "-m", "harness.cli", "plan", "model_configs/tiny.yaml", "--trace", "--json"]
    settings = ["--gpus", "2", "--set", "parallel.tensor_model_parallel_size=1"]
    done = subprocess.run([*command, *settings], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    (phase,) = json.loads(done.stdout)["trace"]
    assert [stage["pipeline_rank"] for stage in phase["stages"]] == [0, 1]
    assert all(stage["peak_bytes"] > 2**20 for stage in phase["stages"])
    assert "tracing 2 pipeline ranks on the meta device" in done.stderr
    assert "traced 2 of 2 pipeline ranks" in done.stderr
