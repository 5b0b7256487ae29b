"""Jobs for the pool: functions that run as one rank of a world. Everything that needs Megatron happens here."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a job imports what it needs when it runs: the test process stays free of Megatron
    from harness.config.schema import Config
    from harness.parallel.ranks import Ranks
    from harness.plan.layouts import Layout


def train(rank: int, world_size: int, init_method: str, config: Config, run_dir: Path, resume: str) -> int:
    """A whole launch of `harness train`; the exit code."""
    import torch

    from harness.run.paths import RunDir
    from harness.train.main import main
    from harness.train.world import World

    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    return main(config, RunDir(run_dir), resume, world)


def train_on_a_full_disk(
    rank: int, world_size: int, init_method: str, config: Config, run_dir: Path, num_saves: int
) -> int:
    """A whole launch whose first so many saves cannot be published; the exit code."""
    import errno
    import os
    from unittest.mock import patch

    from harness.run.checkpoints import store

    left = [num_saves]

    def write_manifest(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*arguments)

    original = store.write_manifest
    with patch.object(store, "write_manifest", write_manifest):
        return train(rank, world_size, init_method, config, run_dir, "must")


def train_without_processes(rank: int, world_size: int, init_method: str, config: Config, run_dir: Path) -> int:
    """A whole launch to which the system gives no further processes; the exit code."""
    import errno
    import os
    from unittest.mock import patch

    def fork() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with patch.object(os, "fork", fork):
        return train(rank, world_size, init_method, config, run_dir, "never")


def train_and_return(
    rank: int, world_size: int, init_method: str, config: Config, run_dir: Path, at_step: int, request: dict[str, Any]
) -> int:
    """A whole launch that finds an order to roll back when it has recorded a step; the exit code."""
    import json
    import threading
    from unittest.mock import patch

    from harness.metrics.recorder import Recorder
    from harness.run.commands.mailbox import Mailbox
    from harness.run.paths import RunDir

    record_step, look = Recorder.step, Mailbox.poll
    is_given, is_found = threading.Event(), threading.Event()

    def poll(self: Mailbox) -> Any:
        began_behind = is_given.is_set()
        found = look(self)
        if began_behind:
            is_found.set()
        return found

    def step(self: Recorder, record: Any) -> None:
        record_step(self, record)
        if (record.attempt, record.step) == (0, at_step):
            order = {"kind": "rollback", **request}
            (RunDir(run_dir).signals / "back.json").write_text(json.dumps(order))
            is_given.set()
            assert is_found.wait(60), "commands are looked for beside training"

    with patch.object(Recorder, "step", step), patch.object(Mailbox, "poll", poll):
        return train(rank, world_size, init_method, config, run_dir, "never")


def steps(
    rank: int, world_size: int, init_method: str, config: Config, run_dir: Path, num_steps: int
) -> list[tuple[float, float]]:
    """Loss and gradient norm of the first steps of a run that nothing is saved of."""
    import torch

    from harness.run.paths import RunDir
    from harness.train.start.opening import open_run
    from harness.train.steps.step import take_step
    from harness.train.world import World

    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    found = []
    with open_run(config, RunDir(run_dir), "never", world) as (run, state):
        for _ in range(num_steps):
            result = take_step(run, state)
            state = state.after_step(cursor=result.next_cursor, learning_rate=result.learning_rate, loss=result.loss)
            found.append((result.loss, result.grad_norm))
    return found


def reshard(rank: int, world_size: int, init_method: str, config: Config, run_dir: Path, to: Path) -> int:
    """Loads the newest checkpoint of a run and writes what was loaded to another folder; the step."""
    import torch

    from harness.parallel import collectives
    from harness.run.paths import RunDir
    from harness.train.start.opening import open_run
    from harness.train.world import World

    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    with open_run(config, RunDir(run_dir), "must", world) as (run, state):
        if rank == 0:
            to.mkdir()
        collectives.barrier()
        run.saver.begin(to, beside=False).finish()
        return state.step


def initial_weights(rank: int, world_size: int, init_method: str, config: Config) -> dict[str, Any]:
    """The weights that a run starts with, as numpy arrays by Megatron's names (on one rank: the whole model)."""
    import torch

    from harness.model.mcore import build_model
    from harness.parallel import mcore as parallel
    from harness.plan.plan import make_plan

    plan = make_plan(config, world_size)
    device = torch.device("cpu")
    ranks = parallel.start(plan.layout, rank=rank, device=device, seed=config.run.seed, init_method=init_method)
    try:
        (chunk,) = build_model(config, plan, ranks, device)
        return {name: weight.detach().numpy().copy() for name, weight in chunk.module.named_parameters()}
    finally:
        parallel.end()


def checkpoint_tensors(rank: int, world_size: int, init_method: str, folder: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint, whole, as numpy arrays; and the optimizer's groups under `groups`."""
    import torch
    from megatron.core import dist_checkpointing

    torch.distributed.init_process_group("gloo", init_method=init_method, rank=rank, world_size=world_size)
    try:
        tensors = dist_checkpointing.load_plain_tensors(str(folder))
        plain = {name: _as_numpy(tensor) for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
        return plain | {"groups": dist_checkpointing.load_common_state_dict(str(folder))["optimizer"]}
    finally:
        torch.distributed.destroy_process_group()


def _as_numpy(tensor: Any) -> Any:
    """The array of a tensor; bf16, which numpy does not know, as fp32, which holds all of its values."""
    import torch

    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def differing_tensors(rank: int, world_size: int, init_method: str, first: Path, second: Path) -> dict[str, float]:
    """What differs between two checkpoints in any bit: largest differences by name (infinite where one is missing)."""
    import numpy as np

    one = checkpoint_tensors(rank, world_size, f"{init_method}-a", first)
    other = checkpoint_tensors(rank, world_size, f"{init_method}-b", second)
    found = {"groups": np.inf} if one.pop("groups") != other.pop("groups") else {}
    found |= dict.fromkeys(set(one) ^ set(other), np.inf)
    for name in set(one) & set(other):
        if one[name].shape != other[name].shape:
            found[name] = np.inf
        elif one[name].tobytes() != other[name].tobytes():
            found[name] = float(np.abs(one[name] - other[name]).max())
    return found


def cut_cross_entropy(
    rank: int, world_size: int, init_method: str, logits: Any, labels: Any, weights: Any, num_true: int, z: float
) -> tuple[Any, Any]:
    """Cross-entropy and the gradient of this rank's columns, as numpy arrays; every rank holds as many columns."""
    import torch

    from harness.model.cross_entropy import VocabularyShard, cross_entropy

    torch.distributed.init_process_group("gloo", init_method=init_method, rank=rank, world_size=world_size)
    try:
        columns = logits.shape[-1] // world_size
        first = rank * columns
        shard = VocabularyShard(
            first_id=first, num_true=min(columns, num_true - first), group=torch.distributed.group.WORLD
        )
        leaf = torch.from_numpy(logits[..., first : first + columns].copy()).requires_grad_()
        loss = cross_entropy(leaf * 1.0, torch.from_numpy(labels), shard, z)
        (loss * torch.from_numpy(weights)).sum().backward()
        return loss.detach().numpy(), leaf.grad.numpy()
    finally:
        torch.distributed.destroy_process_group()


def norms(rank: int, world_size: int, init_method: str) -> dict[str, tuple[float, dict[str, Any]]]:
    """By kind of norm: the largest difference from its formula, and how its parameters are marked."""
    from types import SimpleNamespace

    import torch

    from harness.model.norm import LayerNorm, RMSNorm
    from harness.parallel import cpu

    cpu.prepare()
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)) + 3
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = {
        RMSNorm: x / (x.square().mean(dim=-1, keepdim=True) + 1e-3).sqrt(),
        LayerNorm: centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-3).sqrt(),
    }
    found = {}
    for (kind, expected), is_zero_centered in itertools.product(scaled.items(), (False, True)):
        config = SimpleNamespace(
            params_dtype=torch.float32, sequence_parallel=True, layernorm_zero_centered_gamma=is_zero_centered
        )
        norm = kind(config, 16, eps=1e-3)
        for parameter in norm.parameters():
            parameter.data += 0.5
        expected = expected * (1.5 + is_zero_centered) + (0.5 if kind is LayerNorm else 0.0)
        marks = {
            "sequence_parallel": all(p.sequence_parallel for p in norm.parameters()),
            "dtype": str(norm.weight.dtype),
        }
        name = f"{kind.__name__}, zero-centred" if is_zero_centered else kind.__name__
        found[name] = (float((norm(x) - expected).abs().max()), marks)
    return found


def optimizer_step(
    rank: int, world_size: int, init_method: str, config: Config, gradient: float, learning_rate: float
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Weights before and after one step with the same gradient everywhere, and the gradient's norm.

    All ranks are data-parallel.
    """
    import torch

    from harness.model.mcore import build_model
    from harness.optim.mcore import Optimizer
    from harness.parallel import mcore as parallel
    from harness.plan.plan import make_plan

    plan = make_plan(config, world_size)
    device = torch.device("cpu")
    ranks = parallel.start(plan.layout, rank=rank, device=device, seed=config.run.seed, init_method=init_method)
    try:
        chunks = build_model(config, plan, ranks, device)
        optimizer = Optimizer(config, list(chunks))
        weights = dict(chunks[0].module.named_parameters())
        before = {name: weight.detach().numpy().copy() for name, weight in weights.items()}
        for weight in weights.values():
            weight.main_grad.fill_(gradient)
        norm = float(optimizer.prepare(torch.ones(())))
        optimizer.update(learning_rate)
        return before, {name: weight.detach().numpy().copy() for name, weight in weights.items()}, norm
    finally:
        parallel.end()


def places(rank: int, world_size: int, init_method: str, layout: Layout) -> Ranks:
    """This process's places in the groups of a layout."""
    import torch

    from harness.parallel import mcore as parallel

    found = parallel.start(layout, rank=rank, device=torch.device("cpu"), seed=1, init_method=init_method)
    parallel.end()
    return found


def agreements(rank: int, world_size: int, init_method: str) -> dict[str, Any]:
    """What every collective gives this rank."""
    import torch

    from harness.parallel import collectives

    torch.distributed.init_process_group("gloo", init_method=init_method, rank=rank, world_size=world_size)
    try:
        own = [float(rank), 10.0 * rank]
        found = {
            "sum": collectives.sum_over(torch.tensor(own)).tolist(),
            "max": collectives.max_over(torch.tensor(own)).tolist(),
            "from_rank_0": collectives.from_rank_0({"of": rank}),
            "gathered": collectives.gathered(f"rank {rank}"),
        }
        collectives.barrier()
        return found
    finally:
        torch.distributed.destroy_process_group()


def cuda_answers(rank: int, world_size: int, init_method: str) -> dict[str, Any]:
    """What a machine without a GPU answers to questions about one."""
    import torch

    from harness.parallel import cpu

    cpu.prepare()
    cpu.prepare()  # the second call does nothing
    state = torch.cuda.get_rng_state()
    first = torch.rand(3, device="cuda")
    torch.cuda.set_rng_state(state)
    with torch.cuda.stream(torch.cuda.Stream()):
        in_stream = float(torch.ones((), device="cuda"))
    return {
        "current_device": str(torch.cuda.current_device()),
        "factory": str(torch.zeros(2, device="cuda").device),
        "to": str(torch.zeros(2).to("cuda").device),
        "cuda": str(torch.zeros(2).cuda().device),
        "type": torch.zeros(2).type(),
        "memory_allocated": torch.cuda.memory_allocated(),
        "stream": in_stream,
        "same_random_numbers": torch.equal(first, torch.rand(3, device="cuda")),
    }
