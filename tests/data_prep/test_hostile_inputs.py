"""Inputs of a few bytes that stand for any number, and lines that are made to take memory or time."""

from __future__ import annotations

import bz2
import json
import lzma
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenized import write_lines

from data_prep.text.read_documents import MAX_STRUCTURE, Rejection, parse_line
from harness.cli import run

ERROR = "harness: error: "
MOST_MIB = 1536
"""Memory of a command that reads such a file: that of its libraries, and of the largest line."""
ZEROS = bytes(1 << 20)
COMMAND = """
import sys
from harness.cli import run
code = run(sys.argv[1:])
(peak,) = (line.split() for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(int(peak[1]) >> 10, flush=True)
sys.exit(code)
"""


def packed_zst(file: Path) -> None:
    library = pytest.importorskip("zstandard")
    window = library.ZstdCompressionParameters(window_log=31, compression_level=3)
    with file.open("wb") as raw, library.ZstdCompressor(compression_params=window).stream_writer(raw) as stream:
        for _ in range(200):
            stream.write(ZEROS)


def packed_zst_with_its_size(file: Path) -> None:
    library = pytest.importorskip("zstandard")
    file.write_bytes(library.ZstdCompressor(level=3).compress(bytes(160 << 20)))


def packed_xz(file: Path) -> None:
    with lzma.open(file, "wb", preset=1) as stream:
        for _ in range(180):
            stream.write(ZEROS)


def packed_xz_with_a_large_dictionary(file: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    content = bytearray(lzma.compress(b'{"text": "a"}\n', format=lzma.FORMAT_XZ, filters=filters))
    place = content.index(b"\x21\x01", 12) + 2  # the size of the dictionary in the header of the block
    content[place] = 40  # 4 GiB
    header_bytes = (content[12] + 1) * 4
    import zlib

    content[12 + header_bytes - 4 : 12 + header_bytes] = zlib.crc32(content[12 : 12 + header_bytes - 4]).to_bytes(
        4, "little"
    )
    file.write_bytes(content)


def packed_bz2(file: Path) -> None:
    with bz2.open(file, "wb") as stream:
        for _ in range(140):
            stream.write(ZEROS)


def parquet_of(file: Path, column: object) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": column}), file, compression="zstd", write_statistics=False)


def parquet_of_one_long_text(file: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    numbers = arrow.array([0] * 1024, arrow.int32())
    parquet_of(file, arrow.DictionaryArray.from_arrays(numbers, ["a" * 4_800_000]))


def parquet_of_one_page(file: Path) -> None:
    parquet_of(file, ["a" * 140_000_000])


def parquet_of_nulls(file: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet_of(file, arrow.nulls(400_000, arrow.string()))


BOMBS: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("zst", packed_zst),
    ("zst", packed_zst_with_its_size),
    ("xz", packed_xz),
    ("xz", packed_xz_with_a_large_dictionary),
    ("bz2", packed_bz2),
    ("parquet", parquet_of_one_long_text),
    ("parquet", parquet_of_one_page),
    ("parquet", parquet_of_nulls),
)


@pytest.mark.parametrize(("ending", "make"), BOMBS, ids=lambda value: getattr(value, "__name__", value))
def test_a_small_file_that_stands_for_any_number_of_bytes_is_one_line(
    tmp_path: Path, model_file: Path, ending: str, make: Callable[[Path], None]
) -> None:
    file = tmp_path / (f"x.jsonl.{ending}" if ending != "parquet" else "x.parquet")
    make(file)
    assert file.stat().st_size < 200_000
    options = ["--tokenizer", model_file, "--channel", "zh", "--output", tmp_path / "data"]
    command = [sys.executable, "-c", COMMAND, "data", "tokenize", file, *options]
    began = time.monotonic()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 65, done.stderr
    assert done.stderr.count(ERROR) == 1 and "Traceback" not in done.stderr
    told = done.stderr.partition(ERROR)[2]
    assert told.startswith(str(file)) and told.count("\n") == 1
    assert any(reason in told for reason in ("stands for more than 1,032 times", "memory to"))
    assert int(done.stdout.split()[-1]) < MOST_MIB
    assert time.monotonic() - began < 60


LINES = (
    b'{"text": "a", "n": ' + b"1" * 1_000_000 + b"}",
    b'{"text": "a", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"text": "a", "n": ' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"text": "a", "n": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}",
    b'{"text": "\\ud800"}',
    b'{"text": "a", "n": [' + b"{}," * (MAX_STRUCTURE // 2) + b"{}]}",
    b'{"text": "a", "n": [' + b'"ab",' * (MAX_STRUCTURE // 2 + 10) + b'"ab"]}',
)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[15:30].decode(errors="replace"))
def test_absurd_lines_are_rejected_with_a_reason(line: bytes) -> None:
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = parse_line(line, "text")
    assert isinstance(found, Rejection) and len(found.reason) < 200
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000


def test_honest_long_lines_are_documents() -> None:
    """Text with many quotes, and records with many numbers and with what JSON lacks."""
    text = 'he said "no" {[,]} \\ ' * 300_000
    assert parse_line(json.dumps({"text": text}).encode(), "text") == text
    assert parse_line(json.dumps({"text": "a", "vector": [0.5] * 400_000}).encode(), "text") == "a"
    assert parse_line(b'{"text": "a\\u0000b", "score": NaN}', "text") == "a\0b"


def test_names_with_control_characters_are_shown(
    tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_lines(tmp_path / "a\x1b[31m\n.jsonl", {"text": "hello there"}, 3)
    options = ["--tokenizer", str(model_file), "--channel", "zh", "--output", str(tmp_path / "data")]
    assert run(["data", "tokenize", str(file), *options, "--max-lost-share", "1"]) == 65
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err


def test_two_commands_that_make_the_same_tokenizer_do_not_overwrite_each_other(
    tmp_path: Path, poems: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_lines(tmp_path / "text.jsonl", *({"text": poem} for poem in poems))
    out = tmp_path / "new" / "tokenizer.json"
    command = ["data", "train-tokenizer", str(text), "--vocab-size", "512", "--spare-ids", "10", "--output", str(out)]
    started = [subprocess.Popen([sys.executable, "-m", "harness.cli", *command]) for _ in range(2)]
    assert sorted(process.wait(timeout=120) for process in started) in ([0, 64], [0, 65])
    assert [path.name for path in out.parent.iterdir()] == ["tokenizer.json"]
    assert run(command) == 64
    assert "exists. It stays as it is" in capsys.readouterr().err
