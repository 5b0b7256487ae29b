"""Our data path against Megatron's `GPTDataset` on the same part, and the cost of opening a large corpus.

    python -m benchmarks.data [--documents 10_000_000] [--folder DIR]

Both sides make whole micro-batches in one process, without a thread or a loader; ours eight at a time, which is a step
with that much gradient accumulation. Starts are measured in fresh processes after all imports. The `.bin` is a sparse
file of zeros, because the ids do not affect the time to read them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np

OpenReader = Callable[[Path], Callable[[int], object]]
"""Opens the part with this prefix; what it returns reads the micro-batches of step n."""

SEQ_LENGTH = 4096
VOCAB_SIZE = 32000
MICRO_BATCH_SIZE = 4
MICRO_BATCHES_PER_STEP = 8
STEPS_PER_ROUND = 32
NUM_ROUNDS = 30
NUM_PARTS = 1000
DOCUMENTS_PER_PART = 1_000_000


def write_part(prefix: Path, num_documents: int, mean_tokens: int) -> None:
    """Write a part of documents of 1 to 2·mean_tokens tokens; the index is that of `harness.channels.index_file`."""
    lengths = np.random.default_rng(0).integers(1, 2 * mean_tokens, num_documents, dtype=np.int32)
    ends = np.cumsum(lengths, dtype=np.int64)
    with prefix.with_suffix(".bin").open("wb") as file:
        file.truncate(2 * int(ends[-1]))
    counts = np.array([num_documents, num_documents + 1], dtype="<u8").tobytes()
    with prefix.with_suffix(".idx").open("wb") as file:
        file.write(b"MMIDIDX\0\0" + np.uint64(1).tobytes() + b"\x08" + counts)
        file.write(lengths.tobytes() + ((ends - lengths) * 2).tobytes())
        file.write(np.arange(num_documents + 1, dtype=np.int64).tobytes())


def rss_gib() -> float:
    """Return the largest resident memory of this process so far, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def ours(prefix: Path) -> Callable[[int], object]:
    """Open a part with the harness; returns a reader of the micro-batches of step n."""
    from harness.channels.channels import open_channel
    from harness.config.schema import ChannelConfig
    from harness.data.order.cursor import Cursor
    from harness.data.order.recipe import Recipe
    from harness.data.stream import BatchShape, TrainingStream

    recipe = Recipe(
        seed=1234,
        shares={"all": Fraction(1)},
        seq_length=SEQ_LENGTH,
        vocab_size=VOCAB_SIZE,
        held_out_share=0.0,
        reset_at_document_borders=False,
    )
    samples = MICRO_BATCH_SIZE * MICRO_BATCHES_PER_STEP
    shape = BatchShape(global_batch_size=samples, micro_batch_size=MICRO_BATCH_SIZE, dp_rank=0, dp_size=1)
    channel = open_channel("all", ChannelConfig(path=prefix))
    stream = TrainingStream((channel,), recipe, shape, num_prefetch_batches=0)

    def read(n: int) -> object:
        return stream.step(Cursor(next_position=n * samples, consumed_samples=0)).micro_batches

    return read


def megatrons(prefix: Path) -> Callable[[int], object]:
    """Open a part with Megatron's `GPTDataset`, one epoch, no cache from before, collated as a torch loader does."""
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split
    from torch.utils.data import default_collate

    with tempfile.TemporaryDirectory() as cache:
        config = GPTDatasetConfig(
            random_seed=1234,
            sequence_length=SEQ_LENGTH,
            blend=None,
            split="1,0,0",
            path_to_cache=cache,
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            tokenizer=SimpleNamespace(eod=0, pad=-1, vocab_size=VOCAB_SIZE, unique_identifiers={"class": "none"}),
        )
        indexed = IndexedDataset(str(prefix), multimodal=False, mmap=True)
        documents = np.arange(len(indexed), dtype=np.int32)
        dataset = GPTDataset(indexed, str(prefix), documents, None, Split.train, config)

    def read(n: int) -> object:
        firsts = (MICRO_BATCH_SIZE * (n * MICRO_BATCHES_PER_STEP + k) for k in range(MICRO_BATCHES_PER_STEP))
        return [default_collate([dataset[k] for k in range(first, first + MICRO_BATCH_SIZE)]) for first in firsts]

    return read


def measure_start(open_reader: OpenReader, prefix: Path) -> dict[str, float]:
    """Return the seconds from nothing open to the first step, and the memory used."""
    before_gib, begin = rss_gib(), time.perf_counter()
    open_reader(prefix)(0)
    return {"start_s": time.perf_counter() - begin, "start_gib": rss_gib() - before_gib}


def measure_speed(prefix: Path) -> dict[str, float]:
    """Return samples per second of both: the best round of each, measured in turns so that noise affects both alike."""
    readers = {"ours": ours(prefix), "megatrons": megatrons(prefix)}
    best_s = dict.fromkeys(readers, float("inf"))
    for turn in range(NUM_ROUNDS + 1):  # the first is for the page cache
        for name, read in readers.items():
            begin = time.perf_counter()
            for n in range(STEPS_PER_ROUND):
                read(n)
            if turn:
                best_s[name] = min(best_s[name], time.perf_counter() - begin)
    num_samples = STEPS_PER_ROUND * MICRO_BATCHES_PER_STEP * MICRO_BATCH_SIZE
    return {name: num_samples / seconds for name, seconds in best_s.items()}


def measure_corpus(folder: Path) -> dict[str, float]:
    """Return seconds and memory to open a channel of many parts and make its first step."""
    before_gib, begin = rss_gib(), time.perf_counter()
    read = ours(folder)
    opened_s = time.perf_counter() - begin
    read(0)
    return {"opened_s": opened_s, "first_step_s": time.perf_counter() - begin, "gib": rss_gib() - before_gib}


def measure_check(prefix: Path) -> dict[str, float]:
    """Return how fast a part is read whole before its turn, in GB a second, with its files in the page cache."""
    from harness.channels.channels import bare_part
    from harness.data.files.checked import UsedPart, check_part

    used = UsedPart("all", bare_part(prefix))
    check_part(used, VOCAB_SIZE)
    begin = time.perf_counter()
    check_part(used, VOCAB_SIZE)
    num_bytes = used.part.bin_bytes + used.part.idx_path.stat().st_size
    return {"gb_per_s": num_bytes / 1e9 / (time.perf_counter() - begin), "gb": num_bytes / 1e9}


def in_fresh_process(what: str, path: Path) -> dict[str, float]:
    """Measure in a fresh process, in which everything is imported first."""
    command = [sys.executable, "-m", "benchmarks.data", "--measure", what, "--folder", str(path)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return measured


def link_corpus(folder: Path, part: Path) -> None:
    """Make a channel folder in which one part appears under many names."""
    folder.mkdir()
    bin_bytes = part.with_suffix(".bin").stat().st_size
    lines = []
    for number in range(NUM_PARTS):
        name = f"part-{number:05}"
        for ending in (".bin", ".idx"):
            (folder / f"{name}{ending}").hardlink_to(part.with_suffix(ending))
        numbers = {"tokens": bin_bytes // 2, "documents": DOCUMENTS_PER_PART, "bin_bytes": bin_bytes}
        lines.append(json.dumps({"prefix": name, **numbers, "xxh3": "0" * 16}) + "\n")
    (folder / "parts.jsonl").write_text("".join(lines))


def report(folder: Path, num_documents: int) -> str:
    """Make the files, measure, and lay the numbers out as a table."""
    lines = []
    for mean_tokens in (500, 50):
        prefix = folder / f"documents-of-{mean_tokens}"
        write_part(prefix, num_documents, mean_tokens)
        speed = in_fresh_process("speed", prefix)
        mine, theirs = (best_start(what, prefix) for what in ("ours", "megatrons"))
        lines.append(f"{num_documents:,} documents of {mean_tokens} tokens on average, samples of {SEQ_LENGTH}")
        lines.append(f"{'':28}{'ours':>12}{'GPTDataset':>12}{'ratio':>9}")
        lines.append(row("samples/s, one process", speed["ours"], speed["megatrons"]))
        lines.append(row("seconds to the first step", mine["start_s"], theirs["start_s"]))
        lines.append(row("GiB taken by starting", mine["start_gib"], theirs["start_gib"]) + "\n")
    check = in_fresh_process("check", prefix)
    lines.append(f"check of a whole part, {check['gb']:.1f} GB in the page cache: {check['gb_per_s']:.1f} GB/s")
    write_part(folder / "linked", DOCUMENTS_PER_PART, 8)
    link_corpus(folder / "corpus", folder / "linked")
    corpus = in_fresh_process("corpus", folder / "corpus")
    lines.append(
        f"{NUM_PARTS:,} parts, {NUM_PARTS * DOCUMENTS_PER_PART:,} documents: opened in {corpus['opened_s']:.2f} s, "
        f"first step after {corpus['first_step_s']:.2f} s, {corpus['gib']:.2f} GiB more than before"
    )
    return "\n".join(lines)


def best_start(what: str, prefix: Path) -> dict[str, float]:
    """Return the fastest of three starts."""
    starts = [in_fresh_process(what, prefix) for _ in range(3)]
    return {key: min(start[key] for start in starts) for key in starts[0]}


def row(label: str, ours: float, theirs: float) -> str:
    """Return one line of the table."""
    return f"{label:28}{ours:12,.2f}{theirs:12,.2f}{ours / theirs:9.2f}"


def main() -> None:
    """Measure one thing, or everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=10_000_000, help="documents in the large part")
    parser.add_argument("--folder", type=Path, help="where to make the files")
    parser.add_argument("--measure", choices=["ours", "megatrons", "speed", "corpus", "check"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(_measured(options.measure, options.folder)) + "\n")
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        sys.stdout.write(report(Path(folder), options.documents))
    sys.stdout.write(f"\n\nrepeat: python -m benchmarks.data --documents {options.documents}\n")


def _measured(what: str, path: Path) -> dict[str, float]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import torch

        import harness.data.stream  # noqa: F401

        torch.set_num_threads(1)

        measures: dict[str, Callable[[], dict[str, float]]] = {
            "ours": lambda: measure_start(ours, path),
            "megatrons": lambda: measure_start(megatrons, path),
            "speed": lambda: measure_speed(path),
            "corpus": lambda: measure_corpus(path),
            "check": lambda: measure_check(path),
        }
        return measures[what]()


if __name__ == "__main__":
    main()
