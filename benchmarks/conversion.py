"""Converts synthetic checkpoints of two sizes: speed beside `cp` of the same bytes; peak memory, which must not grow.

    python -m benchmarks.conversion /tmp/space [--gigabytes 1 4]

The proof is left out: it computes with the model, and its memory is bounded apart from this.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from checkpoint_tools.checkpoint_writer import Weights, write_checkpoint
from checkpoint_tools.families.llama import LLAMA
from checkpoint_tools.layout import QKV
from harness.config.schema import ModelConfig

_WORKER = """
import json, sys, time
from pathlib import Path
import torch
from checkpoint_tools.conversion_plan import plan_shards
from checkpoint_tools.families.llama import LLAMA
from checkpoint_tools.our_tensors import OurTensors, _places
from checkpoint_tools.to_hf import write_shards
from checkpoint_tools.torch_dist import read_index
from harness.config.schema import ModelConfig

def peak_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

source, target, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
model = ModelConfig.model_validate_json((source / "model.json").read_text())
ours = OurTensors(path=source, manifest=None, model=model, places=_places(read_index(source), model, source))
before = peak_kib()
shards = plan_shards(LLAMA, model, lambda name: (ours.shape(name), ours.dtype(name)), None, 500 * 10**6)
started = time.perf_counter()
write_shards(target, ours, shards, workers, lambda num_bytes: None)
seconds = time.perf_counter() - started
peak = peak_kib()
print(json.dumps({"bytes": sum(s.num_bytes for s in shards), "seconds": seconds, "peak": peak, "before": before}))
"""


def model_of(gigabytes: float) -> ModelConfig:
    """A bf16 model of about so many gigabytes: layers of 48 MB, and an embedding and an output of 64 MB each."""
    layers = max(1, round((gigabytes * 1e9 - 131e6) / 48e6))
    return ModelConfig(
        num_layers=layers,
        hidden_size=1024,
        num_attention_heads=16,
        num_query_groups=4,
        ffn_hidden_size=6912,
        vocab_size=32000,
    )


def write_source(folder: Path, model: ModelConfig) -> None:
    """Weights that are cheap to make: one random row, repeated."""
    folder.mkdir(parents=True)
    rows = torch.randn(8192).bfloat16()
    hidden, inner = model.hidden_size, model.ffn_hidden_size
    qkv = QKV.join([torch.empty(n, hidden, device="meta") for n in (1024, 256, 256)], model).shape[0]
    sizes = {
        "word_embeddings.weight": (model.padded_vocab_size, hidden),
        "output_layer.weight": (model.padded_vocab_size, hidden),
        "linear_qkv.weight": (qkv, hidden),
        "linear_proj.weight": (hidden, hidden),
        "linear_fc1.weight": (2 * inner, hidden),
        "linear_fc2.weight": (hidden, inner),
    }

    def made(name: str) -> torch.Tensor:
        shape = next((shape for end, shape in sizes.items() if name.endswith(end)), (hidden,))
        return rows[: shape[-1]].expand(shape).contiguous()

    names = [move.ours for move in LLAMA.moves(model)]
    write_checkpoint(folder, Weights(model=model, names=names, read=made))
    (folder / "model.json").write_text(model.model_dump_json())


def copy_seconds(source: Path, target: Path) -> float:
    """How long `cp` takes for the same bytes."""
    target.mkdir()
    started = time.perf_counter()
    subprocess.run(["cp", *map(str, sorted(source.glob("*.distcp"))), str(target)], check=True)
    subprocess.run(["sync", "-f", str(target)], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Prints one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space", type=Path)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    for gigabytes in arguments.gigabytes:
        space = arguments.space / f"{gigabytes:g}GB"
        shutil.rmtree(space, ignore_errors=True)
        source = space / "checkpoint"
        write_source(source, model_of(gigabytes))
        (space / "out").mkdir()
        command = [sys.executable, "-c", _WORKER, str(source), str(space / "out"), str(arguments.workers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        copied_s = copy_seconds(source, space / "copy")
        sys.stdout.write(
            f"{found['bytes'] / 1e9:.2f} GB, {arguments.workers} workers: {found['seconds']:.1f} s "
            f"({found['bytes'] / 1e9 / found['seconds']:.2f} GB/s), cp {copied_s:.1f} s; peak memory "
            f"{found['peak'] / 1024:.0f} MiB, of which {found['before'] / 1024:.0f} MiB were there before\n"
        )
        shutil.rmtree(space)


if __name__ == "__main__":
    main()
