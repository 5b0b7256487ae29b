"""The launcher with small workers: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from harness.launch import workers
from harness.launch.workers import KillSwitch, Patience, WorkerStart, run_workers

LAUNCHER = """
import signal, sys
from pathlib import Path
from harness.launch.workers import Patience, WorkerStart, run_workers
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # tests in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
folder, bodies = Path(sys.argv[1]), sys.argv[2:]
starts = []
for rank, body in enumerate(bodies):
    command = [sys.executable, "-u", "-c", body, sys.argv[1], str(rank)]
    starts.append(WorkerStart(command=command, environment={}, log=folder / f"{rank}.log"))
sys.exit(run_workers(starts, patience=Patience(after_failure_s=0.2, after_finish_s=20)))
"""

LISTENS = """
import sys, time
sys.path.insert(0, "")
from pathlib import Path
from harness.run.commands.os_signals import SignalFlags
flags = SignalFlags()
flags.install()
me = Path(sys.argv[1]) / f"ready-{sys.argv[2]}"
me.touch()
while True:
    for order in flags.commands_from(flags.take_flags()):
        print(order.source)
        with (Path(sys.argv[1]) / f"orders-{sys.argv[2]}").open("a") as file:
            file.write(order.source + "\\n")
        if order.kind != "save":
            sys.exit(75)
    time.sleep(0.01)
"""
NEVER_LISTENS = "import sys, time; open(f'{sys.argv[1]}/ready-{sys.argv[2]}', 'w'); time.sleep(600)"
HANGS = "import time; time.sleep(600)"


def leaves_with(code: int) -> str:
    return f"raise SystemExit({code})"


def run(
    tmp_path: Path, *bodies: str, patience: Patience | None = None, descriptors: tuple[int, ...] = ()
) -> tuple[int, list[str]]:
    """Runs workers in this process; returns the exit code and what was said."""
    said: list[str] = []
    starts = [
        WorkerStart(
            command=[sys.executable, "-c", body],
            environment={"RANK": str(rank)},
            log=tmp_path / f"{rank}.log",
            pass_descriptors=descriptors,
        )
        for rank, body in enumerate(bodies)
    ]
    patience = patience or Patience(after_failure_s=0.2, after_finish_s=20)
    return run_workers(starts, patience=patience, show=said.append), said


@contextmanager
def launcher(folder: Path, *bodies: str) -> Iterator[subprocess.Popen[str]]:
    """A launcher in a process of its own, once all its workers are ready."""
    command = [sys.executable, "-c", LAUNCHER, str(folder), *bodies]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: all((folder / f"ready-{rank}").exists() for rank in range(len(bodies))))
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def orders(folder: Path, rank: int) -> list[str]:
    path = folder / f"orders-{rank}"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("code", [0, 75, 76, 77])
def test_all_leave_as_agreed(tmp_path: Path, code: int) -> None:
    assert run(tmp_path, leaves_with(code), leaves_with(code)) == (code, [])


@pytest.mark.parametrize(("code", "expected"), [(64, 64), (65, 65), (70, 70), (1, 70)])
def test_one_failure_ends_the_others_and_decides(tmp_path: Path, code: int, expected: int) -> None:
    exit_code, said = run(tmp_path, HANGS, f"print('cause'); {leaves_with(code)}")
    assert exit_code == expected
    assert said[0] == f"error: rank 1 left with exit code {code}; the end of {tmp_path / '1.log'}:"
    assert said[1] == "  cause"


def test_a_killed_worker_is_named_and_the_others_do_not_wait_for_ever(tmp_path: Path) -> None:
    kills_itself = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    exit_code, said = run(tmp_path, HANGS, HANGS, kills_itself)
    assert exit_code == 70
    cause = "rank 2 was killed by SIGKILL: by a person, the scheduler, or the kernel for want of memory"
    assert said == [
        f"error: {cause}; the end of {tmp_path / '2.log'}:",
        f"killed: rank 0, 1, still running after {cause}",
    ]


def test_only_the_end_of_a_long_log_is_shown(tmp_path: Path) -> None:
    _, said = run(tmp_path, "for n in range(1000): print(n)\nraise SystemExit(70)")
    assert said[1:] == [f"  {number}" for number in range(970, 1000)]


def test_a_worker_that_stays_behind_when_the_others_have_left_is_killed(tmp_path: Path) -> None:
    patience = Patience(after_failure_s=5, after_finish_s=0.2)
    exit_code, said = run(tmp_path, leaves_with(0), HANGS, patience=patience)
    assert exit_code == 70
    assert said == ["killed: rank 1, still running 0.2 s after others had left"]


def test_logs_are_appended_to_and_hold_both_outputs(tmp_path: Path) -> None:
    (tmp_path / "0.log").write_text("earlier\n")
    run(tmp_path, "import sys; print('out', flush=True); print('err', file=sys.stderr)")
    assert (tmp_path / "0.log").read_text() == "earlier\nout\nerr\n"


def test_without_a_log_output_goes_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    start = WorkerStart(command=[sys.executable, "-c", "print('shown')"], environment={}, log=None)
    assert run_workers([start]) == 0
    assert capfd.readouterr().out == "shown\n"
    start = WorkerStart(command=[sys.executable, "-c", leaves_with(70)], environment={}, log=None)
    assert run_workers([start]) == 70
    assert capfd.readouterr().err == "error: rank 0 left with exit code 70\n"


def test_an_error_that_was_told_on_the_terminal_is_not_told_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tells = f"import sys; sys.stderr.write('harness: error: no data\\n'); {leaves_with(65)}"
    on_terminal = WorkerStart(command=[sys.executable, "-c", tells], environment={}, log=None)
    elsewhere = WorkerStart(command=[sys.executable, "-c", tells], environment={}, log=tmp_path / "1.log")
    assert run_workers([on_terminal, elsewhere]) == 65
    assert capfd.readouterr().err == "harness: error: no data\n"


def test_a_lost_connection_does_not_hide_the_error_behind_it(tmp_path: Path) -> None:
    waits_then_tells = f"import time; time.sleep(0.1); print('harness: error: no data'); {leaves_with(65)}"
    exit_code, said = run(tmp_path, leaves_with(70), waits_then_tells, patience=Patience(after_failure_s=20))
    assert exit_code == 65
    assert said == [
        f"error: rank 1 left with exit code 65; the end of {tmp_path / '1.log'}:",
        "  harness: error: no data",
    ]


def test_a_late_signal_does_not_end_a_worker_with_threads_that_is_leaving(tmp_path: Path) -> None:
    leaving = """
import sys, threading, time
from harness.run.commands.os_signals import SignalFlags
flags = SignalFlags()
flags.install()
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
flags.restore()
open("leaving", "w")
time.sleep(1)
sys.exit(65)
"""
    fails = """
import os, sys, time
while not os.path.exists("leaving"):
    time.sleep(0.01)
sys.exit(70)
"""
    there = f"import os; os.chdir({str(tmp_path)!r})\n"
    code, said = run(tmp_path, there + leaving, there + fails, patience=Patience(after_failure_s=60))
    assert code == 65, said
    assert "error: rank 0 left with exit code 65" in said[0]


def test_workers_of_another_node_have_the_ranks_they_are_told(tmp_path: Path) -> None:
    start = WorkerStart(
        command=[sys.executable, "-c", leaves_with(70)], environment={"RANK": "9"}, log=tmp_path / "9.log"
    )
    said: list[str] = []
    assert run_workers([start], show=said.append) == 70
    assert said == [f"error: rank 9 left with exit code 70; the end of {tmp_path / '9.log'}:"]


def test_workers_inherit_the_files_they_are_passed_and_their_environment_and_no_input(tmp_path: Path) -> None:
    passed, unseen = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR), os.open(tmp_path, os.O_RDONLY)
    body = f"""
import os, sys
os.write({passed}, os.environ["RANK"].encode())
assert sys.stdin.read() == ""
try:
    os.fstat({unseen})
except OSError:
    sys.exit(0)
"""
    code, said = run(tmp_path, body, descriptors=(passed,))
    os.close(passed)
    os.close(unseen)
    assert (code, said) == (0, [])
    assert (tmp_path / "lock").read_text() == "0"


def test_a_command_that_does_not_exist_leaves_nothing_running(tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    notes_pid = f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    good = WorkerStart(command=[sys.executable, "-c", notes_pid], environment={}, log=None)
    bad = WorkerStart(command=["./there-is-no-such-command"], environment={}, log=None)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    children = psutil.Process().children()  # other tests of the session may have started some
    with pytest.raises(FileNotFoundError):
        run_workers([good, bad])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert set(psutil.Process().children()) <= set(children)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_signals_reach_every_worker_which_leave_by_themselves(tmp_path: Path, number: signal.Signals) -> None:
    with launcher(tmp_path, LISTENS, LISTENS) as process:
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: orders(tmp_path, 0) == orders(tmp_path, 1) == ["SIGUSR1"])
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 75
    assert orders(tmp_path, 0) == orders(tmp_path, 1) == ["SIGUSR1", number.name]
    expected = "interrupted: saving and stopping at the end of the step; interrupt again to kill\n"
    assert said == (expected if number == signal.SIGINT else "")


@contextmanager
def closed_terminals(handler: signal.Handlers) -> Iterator[None]:
    """What is started within ignores them, or does not, however the tests were started."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_like_sigterm(tmp_path: Path) -> None:
    with closed_terminals(signal.SIG_DFL), launcher(tmp_path, LISTENS) as process:
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=60) == 75
    assert orders(tmp_path, 0) == ["SIGTERM"]


def test_under_nohup_a_closed_terminal_changes_nothing(tmp_path: Path) -> None:
    with closed_terminals(signal.SIG_IGN), launcher(tmp_path, LISTENS) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: orders(tmp_path, 0) != [])
        process.send_signal(signal.SIGUSR2)
        assert process.wait(timeout=60) == 75
    assert orders(tmp_path, 0) == ["SIGUSR1", "SIGUSR2"]


def test_a_second_interrupt_kills_at_once(tmp_path: Path) -> None:
    with launcher(tmp_path, NEVER_LISTENS, NEVER_LISTENS) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("interrupted: saving and stopping")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 77
    assert said == "interrupted again: all workers are killed, what was not saved is lost\n"


def test_a_signal_that_comes_while_workers_start_is_neither_lost_nor_deadly(tmp_path: Path) -> None:
    starts_slowly = f"""
import os, sys, time
open(f"{{sys.argv[1]}}/pid", "w").write(str(os.getpid()))
open(f"{{sys.argv[1]}}/ready-{{sys.argv[2]}}", "w")
while not os.path.exists(f"{{sys.argv[1]}}/go"):
    time.sleep(0.01)
{LISTENS}"""
    with launcher(tmp_path, starts_slowly) as process:
        for number in (signal.SIGUSR1, signal.SIGTERM):
            process.send_signal(number)
        pid = int((tmp_path / "pid").read_text())
        wait_until(lambda: pending(pid) >= {signal.SIGUSR1, signal.SIGTERM})
        (tmp_path / "go").touch()
        assert process.wait(timeout=60) == 75
    assert sorted(orders(tmp_path, 0)) == ["SIGTERM", "SIGUSR1"]


def test_workers_save_and_stop_when_their_launcher_is_killed(tmp_path: Path) -> None:
    with launcher(tmp_path, LISTENS, LISTENS) as process:
        process.kill()
        process.wait()
        wait_until(lambda: orders(tmp_path, 0) == orders(tmp_path, 1) == ["SIGTERM"])


def pending(pid: int) -> set[int]:
    """Signals that wait for a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return {number for mask in masks for number in range(1, 64) if mask >> (number - 1) & 1}


def test_workers_that_hear_nothing_are_killed_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_ASK_EVERY_S", 0.0)
    stops = "import os, signal; open('ready-' + os.environ['RANK'], 'w'); os.kill(os.getpid(), signal.SIGSTOP)"
    monkeypatch.chdir(tmp_path)
    seen: dict[int, str] = {}

    def collect(running: Mapping[int, int]) -> None:
        seen.update({rank: psutil.Process(pid).status() for rank, pid in running.items()})

    def reason() -> str | None:
        return "rank 1 is silent" if (tmp_path / "ready-1").exists() and (tmp_path / "ready-0").exists() else None

    said: list[str] = []
    starts = [
        WorkerStart(
            command=[sys.executable, "-c", stops], environment={"RANK": str(rank)}, log=tmp_path / f"{rank}.log"
        )
        for rank in range(2)
    ]
    code = run_workers(
        starts, kill_switch=KillSwitch(reason=reason, asked=lambda: None, collect=collect), show=said.append
    )
    assert code == 70
    assert said == ["killed: rank 0, 1: rank 1 is silent"]
    assert sorted(seen) == [0, 1]


def test_launchers_on_other_nodes_have_time_to_learn_before_their_workers_end_with_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_ASK_EVERY_S", 0.0)
    monkeypatch.setattr(workers, "_LOOK_EVERY_S", 0.05)
    learnt: list[float] = []
    starts = [WorkerStart(command=[sys.executable, "-c", HANGS], environment={"RANK": "0"}, log=tmp_path / "0.log")]
    switch = KillSwitch(
        reason=lambda: "rank 1 is silent",
        asked=lambda: None,
        collect=lambda _: learnt.append(time.monotonic()),
        others_learn_s=0.5,
    )
    assert run_workers(starts, kill_switch=switch, show=lambda _: None) == 70
    assert len(learnt) == 1
    assert time.monotonic() - learnt[0] >= 0.5


def test_workers_are_looked_at_once_for_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_ASK_EVERY_S", 0.0)
    monkeypatch.chdir(tmp_path)
    seen: list[int] = []
    times = iter([None, 5.0, 5.0, 6.0])

    def asked() -> float | None:
        found = next(times, 6.0)
        if len(seen) == 2:
            (tmp_path / "enough").touch()
        return found

    waits = "import pathlib, time\nwhile not pathlib.Path('enough').exists(): time.sleep(0.02)"
    start = WorkerStart(command=[sys.executable, "-c", waits], environment={"RANK": "0"}, log=tmp_path / "0.log")
    monkeypatch.setattr(workers, "_LOOK_EVERY_S", 0.05)
    switch = KillSwitch(reason=lambda: None, asked=asked, collect=lambda running: seen.extend(running))
    assert run_workers([start], kill_switch=switch) == 0
    assert seen == [0, 0]
