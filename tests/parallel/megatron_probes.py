"""Looks at Megatron and torch as they come: which of the names that we replace would be wrong if we did not?

A program for a process in which nothing is replaced. It writes a JSON object: full name to whether it is needed.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import pickle
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

warnings.simplefilter("ignore")

import torch  # noqa: E402
from megatron.core import optimizer as megatron_optimizer  # noqa: E402
from megatron.core.dist_checkpointing import core, serialization, validation  # noqa: E402
from megatron.core.dist_checkpointing.strategies import common, filesystem_async, fully_parallel  # noqa: E402
from megatron.core.dist_checkpointing.strategies import torch as torch_format  # noqa: E402
from megatron.core.optimizer import distrib_optimizer  # noqa: E402
from megatron.core.tensor_parallel import layers, mappings  # noqa: E402
from megatron.core.tensor_parallel import random as megatron_random  # noqa: E402
from megatron.core.transformer.moe import token_dispatcher  # noqa: E402
from torch.distributed.checkpoint import FileSystemReader  # noqa: E402
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner  # noqa: E402

CUDA = "torch.cuda"
DISPATCHER = "megatron.core.transformer.moe.token_dispatcher"
LAYERS = "megatron.core.tensor_parallel.layers"
OPTIMIZER = "megatron.core.optimizer"
SHARDED = f"{OPTIMIZER}.distrib_optimizer"
SAVING = "megatron.core.dist_checkpointing.serialization"
CHECKPOINTING = "megatron.core.dist_checkpointing"
STRATEGIES = "megatron.core.dist_checkpointing.strategies"
WRITER = f"{STRATEGIES}.filesystem_async"


def raises(call: Callable[[], object]) -> bool:
    """On a machine without a GPU."""
    try:
        call()
    except (AssertionError, AttributeError, RuntimeError):
        return True
    return False


def leaves_the_cpu_alone(seeds: Callable[[torch.Tensor], object]) -> bool:
    """Whether a call leaves the state of the CPU's generator as it is."""
    torch.manual_seed(1)
    other = torch.get_rng_state()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    seeds(other)
    return torch.equal(before, torch.get_rng_state())


class Exploit:
    """A pickle that says when it is run."""

    ran = False

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return run_exploit, ()


def run_exploit() -> None:
    Exploit.ran = True


def shards_run_code() -> bool:
    planner: Any = DefaultLoadPlanner(flatten_state_dict=False)
    planner.state_dict = {}
    content = io.BytesIO()
    torch.save(Exploit(), content)
    content.seek(0)
    with contextlib.suppress(pickle.UnpicklingError):
        planner.load_bytes(SimpleNamespace(dest_index=SimpleNamespace(fqn="x")), content)
    return Exploit.ran


def indexes_run_code() -> bool:
    Exploit.ran = False
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(AttributeError):
        Path(folder, ".metadata").write_bytes(pickle.dumps(Exploit()))
        FileSystemReader(folder).read_metadata()
    return Exploit.ran


def packed_records_are_read() -> bool:
    """Whether a few bytes take the memory of many: torch reads archives with packed records, which it never writes."""
    written, packed = io.BytesIO(), io.BytesIO()
    torch.save(torch.zeros(1000), written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    packed.seek(0)
    return len(packed.getvalue()) < 2000 and len(torch.load(packed, weights_only=True)) == 1000


def torch_keeps_a_step_per_parameter() -> bool:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    adam = torch.optim.AdamW([parameter])
    adam.step()
    return "step" in adam.state[parameter] and bool(megatron_optimizer.USING_PYTORCH_OPTIMIZER)


def source_has(function: Callable[..., object], *texts: str) -> bool:
    return all(text in inspect.getsource(function) for text in texts)


def results_queue_is_a_process() -> bool:
    make = getattr(filesystem_async, "get_write_results_queue", None) or filesystem_async._get_write_results_queue
    return source_has(make, "_results_queue", "Manager()")


def common_file_is_written_by_rank_0_alone() -> bool:
    strategy = getattr(common, "TorchCommonSaveStrategy", None)
    return strategy is not None and source_has(strategy.save_common, "get_rank() == 0", "torch.save(")


PROBES: dict[str, Callable[[], bool]] = {
    "torch.compile": lambda: "torch._dynamo" in sys.modules,  # Megatron was imported
    f"{CUDA}.current_device": lambda: raises(torch.cuda.current_device),
    f"{CUDA}.set_device": lambda: raises(lambda: torch.cuda.set_device(0)),
    f"{CUDA}.synchronize": lambda: raises(torch.cuda.synchronize),
    f"{CUDA}.ipc_collect": lambda: raises(torch.cuda.ipc_collect),
    f"{CUDA}.Stream": lambda: raises(torch.cuda.Stream),
    f"{CUDA}.current_stream": lambda: raises(torch.cuda.current_stream),
    f"{CUDA}.default_stream": lambda: raises(torch.cuda.default_stream),
    f"{CUDA}.manual_seed": lambda: leaves_the_cpu_alone(lambda _: torch.cuda.manual_seed(1)),
    f"{CUDA}.get_rng_state": lambda: raises(torch.cuda.get_rng_state),
    f"{CUDA}.set_rng_state": lambda: leaves_the_cpu_alone(torch.cuda.set_rng_state),
    f"{CUDA}.random.get_rng_state": lambda: raises(torch.cuda.random.get_rng_state),
    f"{CUDA}.random.set_rng_state": lambda: leaves_the_cpu_alone(torch.cuda.random.set_rng_state),
    "megatron.core.tensor_parallel.random._set_cuda_rng_state": lambda: leaves_the_cpu_alone(
        megatron_random._set_cuda_rng_state
    ),
    f"{LAYERS}.fused_weight_gradient_mlp_cuda": lambda: not hasattr(layers, "fused_weight_gradient_mlp_cuda"),
    f"{LAYERS}._grad_accum_fusion_available": lambda: not layers._grad_accum_fusion_available,
    f"{DISPATCHER}.all_to_all": lambda: source_has(
        token_dispatcher.MoEAlltoAllTokenDispatcher.token_dispatch,
        "all_to_all(",
        "self.output_splits",
        "self.input_splits",
    ),
    f"{DISPATCHER}.gather_from_sequence_parallel_region": lambda: source_has(
        mappings._gather_along_first_dim, "torch.split(output, output_split_sizes", "all_gather(output_tensor_list"
    ),
    f"{DISPATCHER}.reduce_scatter_to_sequence_parallel_region": lambda: source_has(
        mappings._reduce_scatter_along_first_dim, "torch.split(input_, input_split_sizes", "reduce_scatter("
    ),
    f"{OPTIMIZER}.Adam": torch_keeps_a_step_per_parameter,
    f"{OPTIMIZER}.USING_PYTORCH_OPTIMIZER": torch_keeps_a_step_per_parameter,
    f"{SHARDED}.Adam": lambda: issubclass(distrib_optimizer.Adam, torch.optim.Adam),
    f"{SHARDED}.HAVE_APEX_OR_TE": lambda: source_has(
        distrib_optimizer.DistributedOptimizer.state_dict, "if not HAVE_APEX_OR_TE", 's["step"]'
    ),
    f"{SHARDED}.USING_APEX_OPTIMIZER": lambda: source_has(
        distrib_optimizer.DistributedOptimizer.state_dict, "USING_APEX_OPTIMIZER", 'g["step"]'
    ),
    f"{SHARDED}.DistributedOptimizer.get_parameter_state_dp_zero": lambda: source_has(
        distrib_optimizer.DistributedOptimizer.get_parameter_state_dp_zero, ".detach().cpu()", "recv_tensors"
    ),
    "torch.distributed.checkpoint.default_planner.DefaultLoadPlanner.load_bytes": shards_run_code,
    "torch.distributed.checkpoint.filesystem.FileSystemReader.read_metadata": indexes_run_code,
    "torch.distributed.checkpoint.filesystem.FileSystemReader._slice_file": packed_records_are_read,
    "torch.distributed.checkpoint.load_state_dict": lambda: (
        source_has(torch_format.TorchDistLoadShardedStrategy.load, "checkpoint.load_state_dict(")
        and not source_has(torch_format.TorchDistLoadShardedStrategy.load, "no_dist=True")
    ),
    f"{STRATEGIES}.fully_parallel.exchange_loaded_objects_gather_object": lambda: source_has(
        fully_parallel.exchange_loaded_objects_gather_object, "all_gather_object(", "group=None"
    ),
    f"{CHECKPOINTING}.validation.maybe_load_config": lambda: (
        hasattr(validation, "maybe_load_config") and source_has(core.maybe_load_config, "open(config_path)")
    ),
    f"{CHECKPOINTING}.core.maybe_load_config": lambda: (
        not hasattr(validation, "maybe_load_config") and source_has(core.maybe_load_config, "open(config_path)")
    ),
    f"{STRATEGIES}.common.TorchCommonLoadStrategy.load_common": lambda: (
        hasattr(common, "TorchCommonLoadStrategy")
        and source_has(common.TorchCommonLoadStrategy.load_common, "torch.load(load_path")
    ),
    f"{SAVING}.Path": lambda: source_has(serialization.save, "= Path(checkpoint_dir)", ".iterdir()"),
    f"{SAVING}.maybe_msc": lambda: source_has(serialization.save, "maybe_msc.Path(", ".iterdir()"),
    f"{WRITER}.open": lambda: source_has(
        filesystem_async.FileSystemWriterAsync.write_preloaded_data, "open_file = open\n", "open_file(file_name"
    ),
    f"{WRITER}._results_queue": results_queue_is_a_process,
    f"{STRATEGIES}.common.TorchCommonSaveStrategy.save_common": common_file_is_written_by_rank_0_alone,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: probe() for name, probe in PROBES.items()}))
