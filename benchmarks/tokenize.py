"""`harness data tokenize` against the Hugging Face library alone and against Megatron-LM's recipe, on the same text.

    python -m benchmarks.tokenize [--megabytes 400] [--input FILE.jsonl --tokenizer PATH] [--memory]

All ways go from JSONL to `.bin/.idx`, each in a process of its own, in turn and twice; the better time counts. Where
others use the machine, look at the time on a core. "encode_batch_fast" is the library on batches of a thousand
documents, with nothing around it but JSON. "Megatron's recipe" is what Megatron-LM's `preprocess_data.py` does: one
document at a time through Megatron-Core's tokenizer class into its builder, in as many processes as there are cores;
its imports are not counted. The slow ways get a tenth of the text, which is the demo's Chinese and English and the
Python sources of the running environment. The tokenizer is a byte-level BPE of 32,000 ids, trained here on a part of
it. `--memory` shows speed and peak of memory for 100 MB and 2 GB in which hardly a word occurs twice.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import data_prep.demo

NUM_ROUNDS = 2
SLOW_SHARE = 10
TRAIN_CHARACTERS = 3_000_000
VOCAB_SIZE = 32_000
END_OF_DOCUMENT = "<|endoftext|>"


def say(line: str) -> None:
    """Writes a line to the terminal."""
    sys.stdout.write(line + "\n")


def real_documents() -> Iterator[str]:
    """Yields Chinese, English and code in turn."""
    shipped = Path(data_prep.demo.__file__).parent
    for channel in ("zh", "en"):
        with gzip.open(shipped / f"{channel}.jsonl.gz") as lines:
            yield from (json.loads(line)["text"] for line in lines)
    for folder in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for file in sorted(Path(folder).rglob("*.py")):
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if text.strip():
                yield text


def write_corpus(file: Path, max_bytes: int) -> None:
    """Write real documents in a shuffled order, so that every section of the file is a mixture.

    Those that spell out the control symbol are left out: to the harness it is text there, to the others it is not.
    """
    lines, total = [], 0
    for text in real_documents():
        if END_OF_DOCUMENT in text:
            continue
        line = json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"
        total += len(line)
        if total > max_bytes:
            break
        lines.append(line)
    random.Random(0).shuffle(lines)
    file.write_bytes(b"".join(lines))


def train_tokenizer(corpus: Path, file: Path) -> None:
    """Train a byte-level BPE with GPT-2's split of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[END_OF_DOCUMENT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts_of(corpus, TRAIN_CHARACTERS), trainer)
    tokenizer.save(str(file))


def texts_of(corpus: Path, characters: int | None = None) -> Iterator[str]:
    """Yield documents of a JSONL file, up to this many characters."""
    with corpus.open("rb") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            yield text
            if characters is not None and (characters := characters - len(text)) <= 0:
                return


def first_lines(corpus: Path, slice_file: Path, num_bytes: int) -> Path:
    """Write the beginning of a corpus, for the slow ways."""
    with corpus.open("rb") as lines, slice_file.open("wb") as out:
        while out.tell() < num_bytes and (line := lines.readline()):
            out.write(line)
    return slice_file


def ours(corpus: Path, tokenizer: Path, out: Path, encoder: str) -> int:
    """Run the whole command, its check of the encoder included, and return the tokens."""
    from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
    from data_prep.text.sample_documents import sample_documents
    from data_prep.tokenizers.choose_encoder import SAMPLE_CHARACTERS, choose_encoder
    from harness.tokenizers.tokenizer import open_tokenizer

    reference = open_tokenizer(tokenizer)
    sample = sample_documents([corpus], "text", SAMPLE_CHARACTERS) if encoder != "reference" else []
    chosen = choose_encoder(reference, sample, encoder)
    if chosen.encoder.name != encoder:
        raise SystemExit("; ".join(chosen.notes))
    job = ChannelJob(inputs=[corpus], folder=out)
    return tokenize_channel(job, reference, lambda totals, num_bytes: None, chosen.encoder).totals.tokens


def library(corpus: Path, tokenizer: Path, out: Path) -> int:
    """Run only the library's batches."""
    from tokenizers import Tokenizer

    opened = Tokenizer.from_file(str(tokenizer))
    num_tokens, batch = 0, []
    for text in [*texts_of(corpus), None]:
        if text is not None:
            batch.append(text)
        if len(batch) == 1000 or text is None:
            encoded = opened.encode_batch_fast(batch, add_special_tokens=False)
            num_tokens += sum(len(encoding.ids) + 1 for encoding in encoded)
            batch = []
    return num_tokens


def open_in_worker(folder: Path) -> None:
    """Opens the tokenizer once in each worker process."""
    from megatron.core.tokenizers.text.libraries.huggingface_tokenizer import HuggingFaceTokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    encode_line.tokenizer = HuggingFaceTokenizer(str(folder), use_fast=True)  # type: ignore[attr-defined]


def encode_line(line: bytes) -> list[int]:
    """Encode one document as a worker of Megatron-LM's preprocessing does."""
    tokenizer = encode_line.tokenizer  # type: ignore[attr-defined]
    return [*tokenizer.text_to_ids(json.loads(line)["text"]), 0]


def recipe(corpus: Path, tokenizer: Path, out: Path) -> int:
    """Run Megatron-LM's steps: a pool of processes, `imap` over lines, one builder."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    out.mkdir()
    (out / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    description = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_DOCUMENT}
    (out / "tokenizer_config.json").write_text(json.dumps(description))
    builder = IndexedDatasetBuilder(str(out / "part.bin"), dtype=DType.optimal_dtype(VOCAB_SIZE))
    num_tokens = 0
    with multiprocessing.Pool(os.cpu_count(), open_in_worker, (out,)) as pool, corpus.open("rb") as lines:
        for ids in pool.imap(encode_line, lines, 32):
            builder.add_document(ids, [len(ids)])
            num_tokens += len(ids)
    builder.finalize(str(out / "part.idx"))
    return num_tokens


WAYS: dict[str, Callable[[Path, Path, Path], int]] = {
    "Megatron's recipe": recipe,
    "encode_batch_fast": library,
    "harness, reference": lambda corpus, tokenizer, out: ours(corpus, tokenizer, out, "reference"),
    "harness, gigatoken": lambda corpus, tokenizer, out: ours(corpus, tokenizer, out, "gigatoken"),
    "harness, fastokens": lambda corpus, tokenizer, out: ours(corpus, tokenizer, out, "fastokens"),
}
FAST = ("harness, gigatoken", "harness, fastokens")


def measure(way: str, corpus: Path, tokenizer: Path) -> dict[str, float]:
    """Runs one way in this process: seconds, tokens and the peak of memory."""
    if way == "Megatron's recipe":
        # Ten seconds of imports would be half of its time on a slice of this size.
        importlib.import_module("megatron.core.tokenizers.text.libraries.huggingface_tokenizer")
        importlib.import_module("megatron.core.datasets.indexed_dataset")
    with tempfile.TemporaryDirectory() as out:
        begin = time.perf_counter()
        busy = processor_seconds()
        tokens = WAYS[way](corpus, tokenizer, Path(out) / "out")
        busy, seconds = processor_seconds() - busy, time.perf_counter() - begin
    peak = max(own_peak_kb(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    size = corpus.stat().st_size / 1e6
    return {"seconds": seconds, "busy": busy, "tokens": tokens, "megabytes": size, "peak_mb": peak / 1e3}


def own_peak_kb() -> int:
    """Return this program's peak of memory; `getrusage` would include the peak before the process ran this program."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def processor_seconds() -> float:
    """Time that this process and those it waited for were on a core: hardly depends on who else uses the machine."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def in_fresh_process(way: str, corpus: Path, tokenizer: Path) -> dict[str, float]:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.tokenize", "--way", way, "--input", str(corpus)]
    done = subprocess.run([*command, "--tokenizer", str(tokenizer)], capture_output=True, text=True, check=True)
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def compare(corpus: Path, tokenizer: Path, folder: Path) -> None:
    """Print a table of all ways; the same slice must give the same tokens in each."""
    small = first_lines(corpus, folder / "slice.jsonl", corpus.stat().st_size // SLOW_SHARE)
    best: dict[str, dict[str, float]] = {}
    for _ in range(NUM_ROUNDS):
        for way in WAYS:
            numbers = in_fresh_process(way, corpus if way in FAST else small, tokenizer)
            if way not in best or numbers["seconds"] < best[way]["seconds"]:
                best[way] = numbers
    speeds = {way: numbers["megabytes"] / numbers["seconds"] for way, numbers in best.items()}
    for slow_and_fast in ([way for way in WAYS if way not in FAST], FAST):
        if len({best[way]["tokens"] for way in slow_and_fast}) != 1:
            raise SystemExit(f"different numbers of tokens: { {way: best[way]['tokens'] for way in slow_and_fast} }")
    say(f"{'way':<22} {'MB':>7} {'MB/s':>8} {'times':>7} {'MB per core and s':>18} {'times':>7} {'peak MB':>8}")
    per_core = {way: numbers["megabytes"] / numbers["busy"] for way, numbers in best.items()}
    for way, numbers in best.items():
        times, core_times = (found[way] / found["Megatron's recipe"] for found in (speeds, per_core))
        say(
            f"{way:<22} {numbers['megabytes']:7.1f} {speeds[way]:8.2f} {times:7.1f} {per_core[way]:18.2f} "
            f"{core_times:7.1f} {numbers['peak_mb']:8.0f}"
        )


def show_memory(corpus: Path, tokenizer: Path, folder: Path) -> None:
    """Prints the peak of memory for a small and a large input whose words are all new."""
    for megabytes in (100, 2000):
        large = folder / f"{megabytes}.jsonl"
        write_shuffled_words(corpus, large, megabytes * 1_000_000)
        for way in FAST:
            numbers = in_fresh_process(way, large, tokenizer)
            speed = numbers["megabytes"] / numbers["seconds"]
            say(f"{way:<22} {numbers['megabytes']:7.0f} MB {speed:8.1f} MB/s  peak {numbers['peak_mb']:6.0f} MB")
        large.unlink()


def write_shuffled_words(corpus: Path, out: Path, num_bytes: int) -> None:
    """Writes the corpus again and again, every time with other words, until it is that large."""
    generator = random.Random(0)
    with out.open("wb") as file:
        while file.tell() < num_bytes:
            for text in texts_of(corpus):
                letters = list("abcdefghijklmnopqrstuvwxyz")
                generator.shuffle(letters)
                table = str.maketrans("abcdefghijklmnopqrstuvwxyz", "".join(letters))
                file.write(json.dumps({"text": text.translate(table)}, ensure_ascii=False).encode() + b"\n")
                if file.tell() >= num_bytes:
                    return


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        say(json.dumps(measure(arguments.way, arguments.input, arguments.tokenizer)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, tokenizer = arguments.input, arguments.tokenizer
        if corpus is None:
            corpus = folder / "corpus.jsonl"
            write_corpus(corpus, arguments.megabytes * 1_000_000)
        if tokenizer is None:
            tokenizer = folder / "tokenizer.json"
            train_tokenizer(corpus, tokenizer)
        (show_memory if arguments.memory else compare)(corpus, tokenizer, folder)


if __name__ == "__main__":
    main()
