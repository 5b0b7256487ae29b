"""Start-up and seek of our order of the data against Megatron's blended dataset, at growing numbers of parts.

    python -m benchmarks.blend [--sizes 10 100 1000] [--folder DIR]

Both sides blend two channels of the same parts and read sample number 0, then a sample far behind, each in a fresh
process after all imports. Megatron builds its indices without a cache from before, as for every new blend, and its
`.bin` files are mapped; ours opens a part when its turn comes. A part is one synthetic file linked under many names.
The last lines are for ours alone: 10,000 parts and 10^12 tokens, and the cursor of step 200,000.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.data import rss_gib, write_part

SEQ_LENGTH = 4096
VOCAB_SIZE = 32000
MEAN_TOKENS = 1000
DOCUMENTS_PER_PART = 20_000
CHANNELS = ("zh", "en")
LARGE_PARTS = 10_000
LARGE_TOKENS = 10**12
SEEK_STEP = 200_000
GLOBAL_BATCH_SIZE = 1024


def make_corpus(folder: Path, num_parts: int, part: Path, num_documents: int) -> None:
    """Write two channel folders of `num_parts` parts each, all of them one file under many names."""
    bin_bytes = part.with_suffix(".bin").stat().st_size
    numbers = {"tokens": bin_bytes // 2, "documents": num_documents, "bin_bytes": bin_bytes, "xxh3": "0" * 16}
    for channel in CHANNELS:
        (folder / channel).mkdir(parents=True)
        names = [f"part-{number:05}" for number in range(num_parts)]
        for name in names:
            for ending in (".bin", ".idx"):
                (folder / channel / f"{name}{ending}").symlink_to(part.with_suffix(ending))
        lines = (json.dumps({"prefix": name, **numbers}) + "\n" for name in names)
        (folder / channel / "parts.jsonl").write_text("".join(lines))


def ours(folder: Path) -> Callable[[int], object]:
    """Open the corpus with the harness; returns a reader of sample number k."""
    from harness.channels.channels import open_channel
    from harness.config.schema import ChannelConfig
    from harness.data.order.cursor import Cursor
    from harness.data.order.recipe import Recipe
    from harness.data.stream import BatchShape, TrainingStream

    recipe = Recipe(
        seed=1234,
        shares={"zh": Fraction(2, 3), "en": Fraction(1, 3)},
        seq_length=SEQ_LENGTH,
        vocab_size=VOCAB_SIZE,
        held_out_share=0.0,
        reset_at_document_borders=False,
    )
    channels = [open_channel(name, ChannelConfig(path=folder / name)) for name in CHANNELS]
    shape = BatchShape(global_batch_size=1, micro_batch_size=1, dp_rank=0, dp_size=1)
    stream = TrainingStream(channels, recipe, shape, num_prefetch_batches=0)
    begun = stream.begun(Cursor())

    def read(k: int) -> object:
        return stream.step(Cursor(next_position=k, consumed_samples=k, history=begun.history)).micro_batches[0]

    return read


def megatrons(folder: Path) -> Callable[[int], object]:
    """Build Megatron's blended dataset over the same parts, one epoch; returns a reader of sample number k."""
    import torch
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    prefixes, weights = [], []
    for channel, share in zip(CHANNELS, (2 / 3, 1 / 3), strict=True):
        parts = sorted(path.with_suffix("") for path in (folder / channel).glob("*.bin"))
        prefixes += [str(path) for path in parts]
        weights += [share / len(parts)] * len(parts)
    config = GPTDatasetConfig(
        random_seed=1234,
        sequence_length=SEQ_LENGTH,
        blend=(prefixes, weights),
        split="1,0,0",
        path_to_cache=str(folder / "cache"),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        tokenizer=SimpleNamespace(eod=0, pad=-1, vocab_size=VOCAB_SIZE, unique_identifiers={"class": "none"}),
    )
    per_part = (folder / CHANNELS[0] / "part-00000.bin").stat().st_size // 2 // SEQ_LENGTH
    num_samples = int(0.9 * per_part * len(prefixes))
    train, _, _ = BlendedMegatronDatasetBuilder(GPTDataset, [num_samples, 0, 0], lambda: True, config).build()
    assert train is not None
    dataset = train

    def read(k: int) -> object:
        return dataset[min(k, len(dataset) - 1)]

    return read


def measure(open_corpus: Callable[[Path], Callable[[int], object]], folder: Path, far: int) -> dict[str, float]:
    """Return the seconds to the first sample and from there to a far one, and the memory used."""
    before_gib, begin = rss_gib(), time.perf_counter()
    read = open_corpus(folder)
    read(0)
    started_s = time.perf_counter() - begin
    begin = time.perf_counter()
    read(far)
    seek_s = time.perf_counter() - begin
    return {"start_s": started_s, "seek_s": seek_s, "gib": rss_gib() - before_gib, "in_all_gib": rss_gib()}


def in_fresh_process(what: str, folder: Path, far: int) -> dict[str, float]:
    """Measure in a fresh process, in which everything is imported first."""
    command = [sys.executable, "-m", "benchmarks.blend", "--measure", what, "--folder", str(folder), "--far", str(far)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return measured


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the power of the size with which the seconds grow: a line through the logarithms, by least squares."""
    logs = np.log(sizes), np.log(np.maximum(seconds, 1e-6))
    return float(np.polyfit(*logs, 1)[0])


def report(folder: Path, sizes: Sequence[int]) -> str:
    """Make the corpora, measure, and lay the numbers out as a table."""
    part = folder / "part"
    write_part(part, DOCUMENTS_PER_PART, MEAN_TOKENS)
    tokens = part.with_suffix(".bin").stat().st_size // 2
    lines = [f"{'parts':>8}{'tokens':>12}{'start: ours':>14}{'Megatron':>12}{'seek: ours':>14}{'Megatron':>12}"]
    starts: dict[str, list[float]] = {"ours": [], "megatrons": []}
    for size in sizes:
        corpus = folder / f"corpus-{size}"
        make_corpus(corpus, size // len(CHANNELS), part, DOCUMENTS_PER_PART)
        far = int(0.8 * size * (tokens // SEQ_LENGTH) / len(CHANNELS))
        found = {name: in_fresh_process(name, corpus, far) for name in starts}
        for name, measured in found.items():
            starts[name].append(measured["start_s"])
        mine, theirs = found["ours"], found["megatrons"]
        lines.append(
            f"{size:>8,}{size * tokens:>12.1e}{mine['start_s']:>12.2f} s{theirs['start_s']:>10.2f} s"
            f"{mine['seek_s']:>12.2f} s{theirs['seek_s']:>10.2f} s"
        )
    slopes = {name: slope(sizes, seconds) for name, seconds in starts.items()}
    grow = f"parts^{slopes['ours']:.2f} (ours), parts^{slopes['megatrons']:.2f} (Megatron)"
    lines.append(f"seconds to the first sample grow as {grow}")
    return "\n".join([*lines, _large(folder)])


def _large(folder: Path) -> str:
    """Measure 10,000 parts and 10^12 tokens with our order."""
    part = folder / "large"
    mean_tokens = math.ceil(LARGE_TOKENS / LARGE_PARTS / DOCUMENTS_PER_PART)
    write_part(part, DOCUMENTS_PER_PART, mean_tokens)
    make_corpus(folder / "large-corpus", LARGE_PARTS // len(CHANNELS), part, DOCUMENTS_PER_PART)
    found = in_fresh_process("ours", folder / "large-corpus", SEEK_STEP * GLOBAL_BATCH_SIZE)
    tokens = LARGE_PARTS * (part.with_suffix(".bin").stat().st_size // 2)
    return (
        f"{LARGE_PARTS:,} parts, {tokens:.2e} tokens (ours): first sample after {found['start_s']:.2f} s, the one of "
        f"step {SEEK_STEP:,} (batches of {GLOBAL_BATCH_SIZE:,}) {found['seek_s']:.2f} s later, {found['gib']:.2f} GiB "
        f"more than before ({found['in_all_gib']:.2f} with torch and Megatron imported)"
    )


def main() -> None:
    """Measure one thing, or everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], help="parts in all")
    parser.add_argument("--folder", type=Path, help="where to make the files")
    parser.add_argument("--measure", choices=["ours", "megatrons"], help=argparse.SUPPRESS)
    parser.add_argument("--far", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            import torch
            from megatron.core.datasets import blended_megatron_dataset_builder, gpt_dataset  # noqa: F401

            import harness.data.stream  # noqa: F401

            torch.set_num_threads(1)
            found = measure(ours if options.measure == "ours" else megatrons, options.folder, options.far)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        sys.stdout.write(report(Path(folder), options.sizes))
    sys.stdout.write(f"\n\nrepeat: python -m benchmarks.blend --sizes {' '.join(map(str, options.sizes))}\n")


if __name__ == "__main__":
    main()
