"""A real Slurm of two nodes and a spare on this machine, with its own ports, keys and folders."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "scancel")
INSTALL = "apt-get install -y slurm-wlm munge"
_SEARCH_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_DAEMON_PATIENCE_S = 30.0
NODES = ("n1", "n2", "n3")
"""The third one is the spare: the scheduler takes it only where it must."""

CONFIG = """\
ClusterName=harness
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits as long as credentials are valid, 120 s by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
MinJobAge=600
GresTypes=gpu
{nodes}
PartitionName=short Nodes=n[1-3] Default=YES MaxTime=60 OverSubscribe=NO State=UP
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=2000 Weight={weight} "
    "Gres=gpu:a100:2 State=UNKNOWN"
)


class Cluster:
    """The daemons of a small Slurm; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands need to find this Slurm, and nothing of an outer one."""
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**outer, "PATH": _SEARCH_PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def command(self, *arguments: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(arguments, env=self.environment, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, job_id: str) -> Mapping[str, str]:
        """The fields of a job."""
        shown = self.command("scontrol", "--oneliner", "show", "job", job_id)
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def wait_for(self, condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
        """Waits until a condition holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}\n{self.state()}"
            time.sleep(0.5)

    def state(self) -> str:
        """Jobs and nodes, for people."""
        return self.command("scontrol", "show", "job") + self.command("sinfo", "--long", "--Node")

    @contextmanager
    def controller_stopped(self) -> Iterator[None]:
        """The controller stands still meanwhile, and answers nobody."""
        controller = next(daemon for daemon in self._daemons if "slurmctld" in str(daemon.args))
        controller.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            controller.send_signal(signal.SIGCONT)

    def _start(self) -> None:
        folder = self.folder
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        controller_port, *node_ports = _free_ports(1 + len(NODES))
        host = socket.gethostname()
        nodes = "\n".join(
            NODE.format(name=name, host=host, port=port, weight=weight)
            for weight, (name, port) in enumerate(zip(NODES, node_ports, strict=True), start=1)
        )
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                host=host, user=getpass.getuser(), folder=folder, controller_port=controller_port, nodes=nodes
            )
        )
        # No GPU is there, but Slurm hands out what has a file.
        (folder / "gres.conf").write_text(
            "".join(f"Name=gpu Type=a100 File=/dev/{name}\n" for name in ("null", "zero"))
        )
        files = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid"}
        files |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
        self._daemon("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items()))
        self._until((folder / "munge.socket").exists, "munged opens its socket")
        self._daemon("slurmctld", "-D", "-i")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        self._until(self._nodes_are_idle, "all nodes are idle")

    def _nodes_are_idle(self) -> bool:
        done = subprocess.run(
            ("sinfo", "--noheader", "--Node", "--format=%T"),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stdout.split() == ["idle"] * len(NODES)

    def _daemon(self, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=_SEARCH_PATH)
        assert path is not None, f"{program} is not installed"
        with (self.folder / f"{program}.out").open("ab") as output:
            daemon = subprocess.Popen((path, *arguments), env=self.environment, stdout=output, stderr=output)
        self._daemons.append(daemon)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _DAEMON_PATIENCE_S
        while not condition():
            dead = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            assert not dead, f"{dead} ended:\n{self._logs()}"
            assert time.monotonic() < deadline, f"not within {_DAEMON_PATIENCE_S:g} s: {what}\n{self._logs()}"
            time.sleep(0.1)

    def _logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.[ol]*")))

    def _stop(self) -> None:
        """Cancels all jobs, ends the daemons, the keys' last, and kills what is left of the jobs."""
        if len(self._daemons) > 1:
            self._ask("scancel", "--me")
            deadline = time.monotonic() + 15
            while self._ask("squeue", "--noheader").strip() and time.monotonic() < deadline:
                time.sleep(0.5)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        for pid in self.processes("SLURM_CONF", str(self.folder / "slurm.conf")):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _ask(self, *arguments: str) -> str:
        """What one of Slurm's commands prints; nothing where the controller is gone."""
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                arguments, env=self.environment, capture_output=True, text=True, timeout=30, check=False
            )
            return done.stdout
        return ""

    def processes(self, name: str, value: str) -> list[int]:
        """The processes on this machine, other than this one, with that variable in their environment."""
        wanted = f"{name}={value}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdecimal() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return [pid for pid in found if pid != os.getpid()]


def missing_programs() -> list[str]:
    """Programs of Slurm that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=_SEARCH_PATH) is None]


def _free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    try:
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
