"""The flags by which a job asks Slurm for its GPUs: harness's own, or those that a cluster wants instead.

Some clusters take `--gres=gpu:a100:8`, or want the kind of GPU in `--gpus-per-node=a100:8`. Such a flag stands in
`launch.sbatch_flags` and takes the place of the own one; its number must be that of `launch.gpus_per_node`, by which
the ranks are counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.operation import LaunchConfig

_OF_A_NODE = ("--gpus-per-node", "--gpus-per-task")
"""The job has one task on every node, so both count the GPUs of a node."""
_IN_ALL = "--gpus"
_OF_A_SOCKET = "--gpus-per-socket"
_GENERIC = ("--gres", "--tres-per-node")
GPU_FLAGS = (*_OF_A_NODE, _IN_ALL, _OF_A_SOCKET, *_GENERIC)
"""Flags that may ask for GPUs."""
_GENERIC_GPU = re.compile(r"(?:gres[:/])?gpu(?:[:=/](?P<what>.+))?")


@dataclass(frozen=True, kw_only=True)
class _GpuFlag:
    """A flag that asks for GPUs."""

    text: str
    name: str
    count: int
    """Number that stands in the flag: of a node, of a socket, or in all."""


def own_flags(settings: LaunchConfig) -> list[str]:
    """Return the flag by which harness asks for GPUs; none where `launch.sbatch_flags` does, or none are wanted."""
    if settings.gpus_per_node == 0 or _gpu_flags(settings.sbatch_flags):
        return []
    return [f"--gpus-per-node={settings.gpus_per_node}"]


def gpu_flag_problems(settings: LaunchConfig, nodes: int) -> list[str]:
    """Return the problems of the requests for GPUs in `launch.sbatch_flags`, for a job on `nodes` nodes."""
    found = _gpu_flags(settings.sbatch_flags)
    if len(found) > 1:
        given = " and ".join(flag.text for flag in found)
        return [f"launch.sbatch_flags: {given} both ask for GPUs; give one of them"]
    return [problem for flag in found if (problem := _problem(flag, settings, nodes)) is not None]


def _problem(flag: _GpuFlag, settings: LaunchConfig, nodes: int) -> str | None:
    wanted = settings.gpus_per_node
    if flag.name == _IN_ALL:
        if flag.count == nodes * wanted:
            return None
        return (
            f"launch.sbatch_flags: {flag.text} asks for {flag.count} GPUs in all, but {nodes} nodes with "
            f"launch.gpus_per_node {wanted} have {nodes * wanted}; the numbers must agree: correct one of them"
        )
    of_a_node = flag.count
    if flag.name == _OF_A_SOCKET:
        sockets = next((_count(f.partition("=")[2]) for f in settings.sbatch_flags if _is_sockets(f)), None)
        if sockets is None:
            return f"launch.sbatch_flags: {flag.text} needs --sockets-per-node=N beside it; or give --gpus-per-node=N"
        of_a_node *= sockets
    if of_a_node == wanted:
        return None
    return (
        f"launch.sbatch_flags: {flag.text} asks for {of_a_node} GPUs on a node, but launch.gpus_per_node is {wanted}; "
        f"the numbers must agree: set launch.gpus_per_node to {of_a_node} (--gpus-per-node {of_a_node}), or correct "
        "the flag"
    )


def _gpu_flags(flags: Sequence[str]) -> list[_GpuFlag]:
    found: list[_GpuFlag] = []
    for text in flags:
        name, _, value = text.partition("=")
        if name in (*_OF_A_NODE, _IN_ALL, _OF_A_SOCKET):
            found.append(_GpuFlag(text=text, name=name, count=sum(map(_count, value.split(",")))))
        elif name in _GENERIC:
            gpus = [match for item in value.split(",") if (match := _GENERIC_GPU.fullmatch(item))]
            if gpus:
                found.append(_GpuFlag(text=text, name=name, count=sum(_count(gpu["what"] or "") for gpu in gpus)))
    return found


def _is_sockets(flag: str) -> bool:
    return flag.startswith("--sockets-per-node=")


def _count(text: str) -> int:
    """Return the number of GPUs in `8`, `a100:8` or `a100=8`; 1 if there is no number, as in Slurm."""
    last = re.split("[:=]", text)[-1]
    return int(last) if last.isdecimal() else 1
