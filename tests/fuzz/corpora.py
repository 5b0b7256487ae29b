"""Undamaged files of every kind, made by the product itself: what the fuzzer damages. Paths in them are relative.

As a program it makes the corpora that it is given in a folder: `python corpora.py FOLDER NAME…`.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1]
REPOSITORY = _TESTS.parent
LAST_STEP = 8
TEXTS = [f"The {number}th line — {'naïve ' * (number % 5)}世界 {number * number} words.\n" * 3 for number in range(90)]


def make_corpora(folder: Path, names: Sequence[str]) -> None:
    """Makes those that are not there yet, in a process of its own, whose libraries end with it."""
    if any(not (folder / name / ".made").exists() for name in names):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), str(folder), *names]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def harness(*arguments: str, folder: Path) -> None:
    """Runs the product, in a fork of a process that has loaded torch; it must do what it is asked."""
    from process_runs import Command

    code, text = Command(arguments, folder=folder).finish()
    assert code == 0, f"{arguments}: {code}\n{text}"


def make_text(folder: Path) -> None:
    """A tokenizer and a file of text."""
    import small_tokenizers

    small_tokenizers.byte_level().save(str(folder / "tokenizer.json"))
    lines = "".join(json.dumps({"text": text, "id": number}) + "\n" for number, text in enumerate(TEXTS))
    (folder / "text.jsonl").write_text(lines)


def make_channel(folder: Path) -> None:
    """Two channels of two parts each, with all that the product writes beside them."""
    make_text(folder)
    for name in ("en", "code"):
        arguments = ("--tokenizer", "tokenizer.json", "--channel", name, "--output", "data")
        harness("data", "tokenize", "text.jsonl", *arguments, "--tokens-per-part", "6000", folder=folder)


def run_configuration() -> dict[str, Any]:
    """A run of 12 steps that stops at step 8, with everything switched on that leaves files behind."""
    from process_runs import configuration

    values = configuration(Path("data"))
    values["run"] = {"name": "small", "stop_at_step": LAST_STEP}
    values["model"] |= {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "ffn_hidden_size": 32}
    values["model"]["vocab_size"] = 330
    values["data"]["tokenizer"] = "tokenizer.json"
    values["phases"][0]["train_steps"] = 12
    values["parallel"] = {"micro_batch_size": 4}
    values["checkpoint"] = {"save_every_steps": 2}
    values["logging"] = {"tensorboard": True}
    return values


def make_run(folder: Path) -> None:
    """A run that was rolled back, has given evidence and kept a document out, is watched, and has stopped."""
    import yaml

    make_channel(folder)
    values = run_configuration()
    _write_yaml(folder / "config.yaml", {**values, "run": {**values["run"], "stop_at_step": 4}})
    harness("train", "config.yaml", "--run-dir", "run", folder=folder)
    signals = folder / "run" / "signals"
    for name, request in REQUESTS.items():
        (signals / f"{name}.json").write_text(json.dumps(request))
    _write_yaml(folder / "config.yaml", values)
    harness("train", "config.yaml", "--run-dir", "run", folder=folder)
    for number, path in enumerate(sorted((folder / "run" / "tensorboard").iterdir())):
        path.rename(path.with_name(f"events.out.tfevents.{number}.host.1.0"))
    harness("watch", "run", "--once", "--no-orders", folder=folder)
    dumps = next((folder / "run" / "launches").iterdir()) / "flight_recorder"
    dumps.mkdir()
    (dumps / "rank_0").write_bytes(pickle.dumps(_dump(0)))
    with tarfile.open(dumps / "node_00001.tar", "w") as archive:
        content = pickle.dumps(_dump(1))
        entry = tarfile.TarInfo("rank_1")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    assert yaml.safe_load((folder / "run" / "config.yaml").read_text())["run"]["name"] == "small"


REQUESTS: dict[str, dict[str, Any]] = {
    "rollback": {"kind": "rollback", "to_step": 2, "skip_steps": [3, 4], "reason": "fuzz"},
    "quarantine": {"kind": "quarantine", "documents": {"en/part-00000": [3, 5]}, "reason": "fuzz"},
    "evidence": {"kind": "evidence", "steps": [1, 2]},
}


def _dump(rank: int) -> dict[str, Any]:
    """What torch's flight recorder writes: rank 1 waits, rank 0 has not come."""
    entry = {"process_group": ("0", "default_pg"), "profiling_name": "gloo:all_reduce", "is_p2p": False}
    entries = [
        entry
        | {"collective_seq_id": number, "state": "completed" if number < 3 else "scheduled", "retired": number < 3}
        for number in range(1, 3 + rank)
    ]
    groups = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}}
    return {"version": "2.4", "pg_config": groups, "entries": entries}


def make_trainer(folder: Path) -> None:
    """A run that was stopped in its middle, and the same after it went on to step 8 undisturbed."""
    make_channel(folder)
    values = run_configuration()
    _write_yaml(folder / "config.yaml", {**values, "run": {**values["run"], "stop_at_step": 4}})
    harness("train", "config.yaml", "--run-dir", "run", folder=folder)
    _write_yaml(folder / "config.yaml", values)
    shutil.copytree(folder / "run", folder / "before")
    harness("train", "config.yaml", "--run-dir", "run", folder=folder)
    (folder / "run").rename(folder / "expected")
    (folder / "before").rename(folder / "run")
    (folder / "drop").mkdir()
    plain = {kind: {"kind": kind} for kind in ("save", "stop", "save-and-stop", "stop-for-person")}
    mark = {"kind": "mark", "checkpoints": ["step_0000002"], "health": "suspect", "reason": "fuzz"}
    for name, request in {**REQUESTS, **plain, "mark": mark}.items():
        (folder / "drop" / f"{name}.json").write_text(json.dumps(request))
    (folder / "run" / "resume_failures.jsonl").touch()


def make_model(folder: Path) -> None:
    """Small Hugging Face models: with a tokenizer, in two files, and with weights in fp8."""
    from hugging_face_models import VARIANTS, write_model, write_quantized
    from tokenizer_folders import write_with_tokenizer

    write_with_tokenizer(folder / "model", "chat template in the settings")
    shutil.rmtree(folder / "parts", ignore_errors=True)
    variant = next(variant for variant in VARIANTS if variant.name == "qwen2-tied")
    write_model(folder / "parts", variant, shard_size="20KB")
    write_quantized(folder / "quantized")


def make_tokenizers(folder: Path) -> None:
    """One of each kind, in folders of their own, and text for them."""
    import small_tokenizers
    from tokenizer_folders import KINDS, sentencepiece_model

    make_text(folder)
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in small_tokenizers.TEXTS))
    for name in ("unigram", "bpe"):
        (folder / name).mkdir()
        options = {"model_type": name, "vocab_size": 360 if name == "bpe" else 320}
        (folder / name / "tokenizer.model").write_bytes(small_tokenizers.sentencepiece_model(**options))
    for name, kind in (("chat", "chat template in the settings"), ("added", "SentencePiece with added tokens")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
        KINDS[kind](folder / name)
    assert sentencepiece_model is not None
    (folder / "tik").mkdir()
    words = [bytes([number]) for number in range(256)] + [b"th", b"he", b"the", b" the", b"in", b"ing"]
    ranks = b"".join(base64.b64encode(word) + b" %d\n" % number for number, word in enumerate(words))
    (folder / "tik" / "small.tiktoken").write_bytes(ranks)
    described = {"split": "gpt2", "special_tokens": {"<|endoftext|>": len(words)}}
    (folder / "tik" / "small.tiktoken.json").write_text(json.dumps(described))


def make_packed(folder: Path) -> None:
    """The same text in every packing, and in Parquet."""
    import pyarrow
    import pyarrow.parquet
    import zstandard

    make_text(folder)
    lines = (folder / "text.jsonl").read_bytes()
    pack: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": zstandard.compress,
    }
    for name, function in pack.items():
        (folder / f"text.jsonl.{name}").write_bytes(function(lines))
    records = [json.loads(line) for line in lines.splitlines()]
    (folder / "text.json").write_text(json.dumps(records))
    for name, compression in (("text", "snappy"), ("plain", "none")):
        table = pyarrow.table({key: [record[key] for record in records] for key in ("text", "id")})
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet", compression=compression, row_group_size=40)


def make_pages(folder: Path) -> None:
    """A web page, a book, and archives of both."""
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    make_text(folder)
    texts = [json.loads(line)["text"] for line in (folder / "text.jsonl").read_bytes().splitlines()[:3]]
    (folder / "text.jsonl").unlink()
    paragraphs = "".join(f"<p>{text}</p><table><tr><td>{text}</td></tr></table>" for text in texts)
    page = f"<html lang=en><head><meta charset=utf-8><title>A</title></head><body>{paragraphs}</body></html>".encode()
    with PdfPages(folder / "book.pdf") as pdf:
        figure = Figure()
        figure.text(0.1, 0.5, "A line of a book")
        pdf.savefig(figure)
    book = (folder / "book.pdf").read_bytes()
    records = [_record(page, "text/html", gzip.compress), _record(page, "text/html; charset=utf-8", bytes)]
    records.append(_record(book, "application/pdf", bytes))
    (folder / "page.html").write_bytes(page)
    (folder / "crawl.warc").write_bytes(b"".join(records))
    (folder / "crawl.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))


def _record(body: bytes, content_type: str, pack: Callable[[bytes], bytes]) -> bytes:
    encoding = "Content-Encoding: gzip\r\n" if pack is gzip.compress else ""
    payload = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{encoding}\r\n".encode() + pack(body)
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{len(body)}>\r\n"
        "WARC-Date: 2024-03-05T00:00:00Z\r\nWARC-Target-URI: https://example.org/\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload + b"\r\n\r\n"


def make_prepared(folder: Path) -> None:
    """Text that a corpus file has cleaned, freed of copies and put in order, and what that leaves for a restart."""
    make_text(folder)
    (folder / "words.txt").write_text("naïve\n世界\nline —\n")
    given: dict[str, Any] = {"input": ["text.jsonl"], "clean": {"preset": "light"}, "dedup": {"methods": ["exact"]}}
    given["order"] = {"by": "score", "score_key": "id"}
    _write_yaml(folder / "corpus.yaml", {"output": "corpus", "sources": {"en": given}, "executor": {"kind": "local"}})
    for stage in ("clean", "dedup", "order"):
        harness("data", stage, "--config", "corpus.yaml", folder=folder)


def make_recordings(folder: Path) -> None:
    """Curves in every form that `harness replay` reads."""
    from torch.utils.tensorboard import SummaryWriter

    losses = [10.0 - number * 0.02 + (5 if number in (300, 301, 302) else 0) for number in range(400)]
    rows = [f"{number + 1},{loss:.4f},{1.0 + number % 7},0.001" for number, loss in enumerate(losses)]
    text = "\n".join(["step,loss,grad_norm,lr", *rows, ""])
    (folder / "curve.csv").write_text(text)
    (folder / "curve.csv.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "labels.csv").write_text("curve,direction,start,end\ncurve,up,301,303\n")
    writer = SummaryWriter(str(folder / "events"))
    for number, loss in enumerate(losses[:40]):
        writer.add_scalar("train/lm_loss", loss, number + 1)
        writer.add_scalar("optim/grad_norm", 1.0 + number % 7, number + 1)
    writer.close()
    [written] = (folder / "events").iterdir()
    written.rename(folder / "events.out.tfevents.1.host.1.0")
    (folder / "events").rmdir()


def make_configs(folder: Path) -> None:
    """The shipped configurations, and the data of none of them."""
    for path in sorted((REPOSITORY / "model_configs").glob("*.yaml")):
        shutil.copy(path, folder / path.name)


def _write_yaml(path: Path, values: dict[str, Any]) -> None:
    import yaml

    path.write_text(yaml.safe_dump(values, sort_keys=False))


CORPORA: dict[str, Callable[[Path], None]] = {
    "channel": make_channel,
    "configs": make_configs,
    "model": make_model,
    "packed": make_packed,
    "pages": make_pages,
    "prepared": make_prepared,
    "recordings": make_recordings,
    "run": make_run,
    "tokenizers": make_tokenizers,
    "trainer": make_trainer,
}


def main() -> None:
    folder = Path(sys.argv[1])
    sys.path[:0] = [str(_TESTS / name) for name in ("", "train", "checkpoint_tools", "data_prep", "fuzz")]
    for name in sys.argv[2:]:
        if not (folder / name / ".made").exists():
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir(parents=True)
            CORPORA[name](folder / name)
            (folder / name / ".made").touch()


if __name__ == "__main__":
    main()
