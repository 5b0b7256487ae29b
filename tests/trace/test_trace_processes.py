from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config.schema import Config
from harness.errors import EXIT_USAGE, HarnessError, UsageError
from harness.plan.plan import make_plan
from harness.trace import processes
from harness.trace.processes import Limits, require_megatron, trace_stages
from harness.trace.request import Request, requests_for

# What a trace answers, without tracing.
ANSWER = (
    "import json, sys; request = json.loads(sys.stdin.readline());"
    "print(json.dumps({'pipeline_rank': request['pipeline_rank'], 'num_microbatches': 1, 'peak_bytes': 5, 'held': [],"
    " 'made': [], 'host_waits': [], 'collectives': []}), flush=True)"
)
SLEEP = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(600)"


@pytest.fixture
def requests(make_config: Callable[..., Config]) -> list[Request]:
    config = make_config(model={"num_layers": 3}, parallel={"pipeline_model_parallel_size": 3})
    plan = make_plan(config, 3)
    return requests_for(config, plan, plan.phases[0])


def python(program: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program, *arguments)


def is_there(process_id: int) -> bool:
    return Path(f"/proc/{process_id}").exists() and ") Z " not in Path(f"/proc/{process_id}/stat").read_text()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)


def test_findings_come_in_the_order_of_the_stages(requests: list[Request]) -> None:
    lines: list[str] = []
    found = trace_stages(requests, lines.append, command=python(ANSWER))
    assert [(each.pipeline_rank, each.peak_bytes) for each in found] == [(0, 5), (1, 5), (2, 5)]
    assert [line.split(": ")[0] for line in lines] == [f"traced {n} of 3 pipeline ranks" for n in (1, 2, 3)]


def test_a_trace_that_fails_shows_its_last_lines(requests: list[Request]) -> None:
    with pytest.raises(HarnessError, match=r"(?s)the trace of pipeline rank \d failed; its last lines:.*  no such op"):
        trace_stages(requests, lambda line: None, command=python("import sys; sys.exit('no such op')"))


def test_a_trace_that_takes_too_long_is_ended(requests: list[Request], tmp_path: Path) -> None:
    started = tmp_path / "started"
    message = r"pipeline rank 0, 1, 2 was not done after 2 s and was ended; trace fewer layers \(--set model.num_layers"
    with pytest.raises(HarnessError, match=message):
        trace_stages(requests, lambda line: None, Limits(seconds=2.0), python(SLEEP, str(started)))
    assert not any(map(is_there, map(int, started.read_text().split())))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_over(requests: list[Request], tmp_path: Path, number: signal.Signals) -> None:
    started = tmp_path / "started"
    (tmp_path / "request").write_text(requests[0].as_json())
    # As harness.trace.stage does, it ends when its standard input does.
    child = (
        "import os, sys, threading\n"
        f"open({str(started)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "sys.stdin.readline()\n"
        "sys.stdin.read()\n"
        "os._exit(1)\n"
    )
    parent = (
        "import sys\n"
        "from harness.trace.processes import trace_stages\n"
        "from harness.trace.request import Request\n"
        f"request = Request.from_json(open({str(tmp_path / 'request')!r}).read())\n"
        f"trace_stages([request] * 2, print, command=(sys.executable, '-c', {child!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stderr=subprocess.DEVNULL)
    wait_until(lambda: started.exists() and len(started.read_text().split()) == 2)
    time.sleep(0.5)
    os.kill(process.pid, number)
    assert process.wait(timeout=30) != 0
    children = [int(line) for line in started.read_text().split()]
    wait_until(lambda: not any(map(is_there, children)))


def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        r"--trace runs the real model and needs megatron\.core_of_another, which is not installed: "
        r"pip install 'harness\[train\]' \(no GPU is needed\), or leave --trace out"
    )
    with pytest.raises(UsageError, match=message) as caught:
        require_megatron(["json", "megatron.core_of_another"])
    assert caught.value.exit_code == EXIT_USAGE
    with pytest.raises(UsageError, match=r"needs nothing_of_the_kind\.core, which"):
        require_megatron(["nothing_of_the_kind.core"])
    assert processes.NEEDED == ("torch", "numpy", "megatron.core")
