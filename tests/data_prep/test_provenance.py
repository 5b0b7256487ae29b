"""The way back: from a document of a channel to the raw file, the line and the URL, through every command between."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from channel_files import write_channel
from click.testing import CliRunner
from tokenized import content_of, make, write_lines

from data_prep.channels.merge import merge_channels
from data_prep.channels.tokenize_channel import ChannelJob
from data_prep.text.input_files import find_inputs
from data_prep.text.order_files import OrderJob, order_files
from data_prep.text.provenance_writer import ProvenanceWriter
from harness.channels.provenance import MOST_NAME_BYTES, Provenance, open_provenance
from harness.channels.provenance_of_parts import Provenances, all_of_part, provenance_of
from harness.cli import root
from harness.data.files.opened import open_part, parts_of
from harness.errors import DataError
from harness.tokenizers.tokenizer import Tokenizer


def run(*arguments: object) -> str:
    """Runs a command of `harness data`."""
    result = CliRunner().invoke(root, ["data", *map(str, arguments)])
    assert result.exception is None, (result.exception, result.output)
    return result.output


def write_raw(folder: Path, poems: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Three files of records with URLs, copies and bad lines among them; returns their lines."""
    generator, files = random.Random(5), {}
    for number, (name, share) in enumerate({"a.jsonl": 90, "b.jsonl.gz": 120, "c.jsonl": 60}.items()):
        lines: list[dict[str, Any]] = []
        for place in range(share):
            text = "\n".join(generator.sample(poems, 3))
            record = {
                "text": text,
                "id": f"{number}-{place}",
                "metadata": {"url": f"https://example.org/{number}/{place}"},
            }
            lines.append(record)
            if place % 7 == 0:
                lines.append({"text": text, "metadata": {"url": f"https://example.org/copy/{number}/{place}"}})
            if place % 11 == 0:
                lines.append({"text": ""})
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        files[str(path)] = lines
    return files


def check_all(channel: Path, raw: dict[str, list[dict[str, Any]]], tokenizer: Tokenizer) -> list[Provenance]:
    """Holds every document of a channel against the raw line that is named; returns what is named."""
    found = []
    for part in parts_of(channel):
        opened = open_part(part)
        for number, origin in enumerate(all_of_part(part)):
            record = raw[origin.file][origin.line - 1]
            # A piece may begin and end within a character.
            text = tokenizer.decode(opened.document(number).tolist()[:-1]).strip("\ufffd").replace(" ", "")
            whole = record["text"].replace(" ", "")
            assert origin.name == record["metadata"]["url"]
            assert text and text in whole
            assert (origin.piece > 0) == (text != whole.strip())
            found.append(origin)
    return found


@pytest.mark.slow
def test_from_raw_text_through_every_command_and_back(
    poems: list[str], model_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pytest.importorskip("datatrove")
    pytest.importorskip("rensa")
    raw = write_raw(tmp_path / "raw", poems)
    kept = [tmp_path / name for name in ("cleaned", "deduped", "ordered", "data")]
    run("clean", tmp_path / "raw", "--preset", "light", "--output", kept[0])
    run("dedup", kept[0], "--method", "exact", "--method", "minhash", "--output", kept[1])
    run("order", kept[1], "--by", "shuffle", "--seed", "3", "--output", kept[2])
    # The folders in between are not needed: the way back is in every file.
    for folder in kept[:2]:
        for file in folder.rglob("*"):
            if file.is_file():
                file.unlink()
    arguments = ["--tokenizer", model_file, "--channel", "zh", "--output", kept[3], "--tokens-per-part", "4000"]
    run("tokenize", kept[2], *arguments, "--max-document-tokens", "60", "--long-documents", "split")
    parts = parts_of(kept[3] / "zh")
    assert len(parts) > 3
    found = check_all(kept[3] / "zh", raw, tokenizer)
    [ordered] = kept[2].glob("*.gz")
    num_kept = len(gzip.decompress(ordered.read_bytes()).splitlines())
    assert 250 < num_kept <= 270  # all but copies and empty lines
    assert len({(each.file, each.line) for each in found}) == num_kept
    assert len(found) > 400 and {each.file for each in found} == set(raw)
    run("merge", kept[3] / "zh", "--output", tmp_path / "merged")
    assert check_all(tmp_path / "merged", raw, tokenizer) == found
    assert "merged: good, 1 part" in run("verify", tmp_path / "merged")
    shown = run("show", tmp_path / "merged", "--tokenizer", model_file, "--document", "7", "--document", "300")
    assert [line for line in shown.splitlines() if line.startswith("   from ")] == [
        f"   from {found[number].in_words()}" for number in (7, 300)
    ]
    as_json = json.loads(run("show", tmp_path / "merged", "--tokenizer", model_file, "--document", "7", "--json"))
    assert as_json[0]["provenance"] == found[7]._asdict()


def test_cleaned_and_sentence_deduplicated_text_names_the_raw_line(
    poems: list[str], model_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pytest.importorskip("datatrove")
    raw = write_raw(tmp_path / "raw", poems)
    run("dedup", tmp_path / "raw", "--method", "sentence", "--output", tmp_path / "out")
    run("tokenize", tmp_path / "out", "--tokenizer", model_file, "--channel", "zh", "--output", tmp_path / "data")
    [part] = parts_of(tmp_path / "data" / "zh")
    origins = list(all_of_part(part))
    assert 100 < len(origins) == part.num_documents
    for origin in origins:
        assert raw[origin.file][origin.line - 1]["metadata"]["url"] == origin.name


@pytest.mark.parametrize("by", ["shuffle", "score"])
def test_order_keeps_the_way_back_over_files(by: Any, tmp_path: Path) -> None:
    files = [
        write_lines(
            tmp_path / f"{number}.jsonl", *({"text": f"{number} {line}", "score": line % 7} for line in range(50))
        )
        for number in range(3)
    ]
    (tmp_path / "out").mkdir()
    order_files(OrderJob(files=files, folder=tmp_path / "out", by=by, bytes_per_file=1500, bucket_bytes=900))
    written = sorted(path for path in (tmp_path / "out").iterdir() if path.name.endswith(".gz"))
    assert len(written) > 2
    for path in written:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        opened = open_provenance(path.with_name(path.name + ".provenance"))
        assert opened is not None
        with opened:
            assert opened.num_entries == len(lines)
            for line, origin in zip(lines, opened.entries(), strict=True):
                number, place = json.loads(line)["text"].split()
                assert origin == Provenance(str(files[int(number)]), int(place) + 1)


def test_the_id_is_the_named_key_or_a_url_before_an_id(job: ChannelJob, tokenizer: Tokenizer, tmp_path: Path) -> None:
    records = [
        {"text": "一", "id": "a", "url": "https://a.example"},
        {"text": "二", "id": 7},
        {"text": "三", "meta": {"url": "https://c.example", "id": "x"}, "id": "c"},
        {"text": "四", "metadata": {"warc_headers": {"warc-target-uri": "https://d.example"}}},
        {"text": "五", "url": None, "id": True},
        {"text": "六", "url": "h" * 5000},
        {"text": "七", "own": {"key": "mine"}, "url": "https://g.example"},
    ]
    file = write_lines(tmp_path / "some.jsonl", *records)
    for id_key, expected in (
        (
            None,
            ["https://a.example", "7", "https://c.example", "https://d.example", "", "h" * 1024, "https://g.example"],
        ),
        ("own.key", [""] * 6 + ["mine"]),
    ):
        folder = tmp_path / f"data-{id_key}"
        make(replace(job, inputs=[file], folder=folder, id_key=id_key), tokenizer)
        [part] = parts_of(folder)
        entries = list(all_of_part(part))
        assert [entry.name for entry in entries] == expected
        assert [(entry.file, entry.line) for entry in entries] == [(str(file), line) for line in range(1, 8)]
    assert MOST_NAME_BYTES == 1024


KILLED = """
import os, signal, sys
from pathlib import Path
import data_prep.channels.indexed_writer as indexed_writer
from data_prep.channels.tokenize_channel import ChannelJob, tokenize_channel
from harness.tokenizers.tokenizer import open_tokenizer

folder, model, *inputs = sys.argv[1:]
finish = indexed_writer.ProvenanceWriter.finish

def finish_or_die(self, owner):
    if Path(folder, "part-00001.idx").exists():
        self._stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    finish(self, owner)

indexed_writer.ProvenanceWriter.finish = finish_or_die
job = ChannelJob(inputs=[Path(file) for file in inputs], folder=Path(folder), tokens_per_part=3000)
tokenize_channel(job, open_tokenizer(Path(model)), lambda totals, bytes_read: None)
"""


def test_a_call_killed_while_it_writes_provenance_is_continued_to_the_same_bytes(
    job: ChannelJob, tokenizer: Tokenizer, model_file: Path, tmp_path: Path
) -> None:
    whole = replace(job, folder=tmp_path / "whole" / "zh")
    make(whole, tokenizer)
    command = [sys.executable, "-c", KILLED, str(job.folder), str(model_file)]
    process = subprocess.run([*command, *map(str, job.inputs)], check=False, timeout=120)
    assert process.returncode == -signal.SIGKILL
    left = {path.name for path in job.folder.iterdir()}
    assert "part-00001.provenance.partial" in left and "part-00001.provenance" not in left
    make(job, tokenizer)
    assert content_of(job.folder) == content_of(whole.folder)
    assert "part-00001.provenance" in content_of(job.folder)


def test_old_parts_are_not_recorded_and_merge_with_new_ones(
    job: ChannelJob, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    old = write_channel(tmp_path / "old", [[1, 2], [3]], [[4]])
    make(job, tokenizer)
    new = [each for part in parts_of(job.folder) for each in all_of_part(part)]
    merge_channels([old, job.folder], tmp_path / "merged", None, lambda _: None)
    [part] = parts_of(tmp_path / "merged")
    assert list(all_of_part(part)) == [Provenance("", 0)] * 3 + new
    merge_channels([old], tmp_path / "alone", None, lambda _: None)
    [part] = parts_of(tmp_path / "alone")
    assert provenance_of(part) is None and not part.provenance_path.exists()
    assert "good" in run("verify", old)
    parts_of(job.folder)[0].provenance_path.unlink()
    assert "of some parts it is not recorded where their documents came from" in run("verify", job.folder)


def damage(path: Path, place: int, content: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[place : place + len(content) if place + len(content) else None] = content
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("place", "content", "reason"),
    [
        (0, b"XXXXXXXX", "does not begin and end"),
        (-8, b"XXXXXXXX", "does not begin and end"),
        (-56, (2**63).to_bytes(8, "little"), "entries and"),
        (-56, (2**32).to_bytes(8, "little"), "pieces do not make"),
        (-56, (5).to_bytes(8, "little"), "entries for"),
        (-48, (5).to_bytes(8, "little"), "does not belong to the file beside it"),
        (-40, (2**64 - 1).to_bytes(8, "little"), "pieces do not make"),
        (-32, (2**64 - 1).to_bytes(8, "little"), "pieces do not make"),
        (-24, (2**40).to_bytes(8, "little"), "bytes of names of files"),
        (-24, (2**20).to_bytes(8, "little"), "names of files are not as long"),
        (-64, (2**64 - 1).to_bytes(8, "little"), "blocks do not follow"),
        (-64, (9).to_bytes(8, "little"), "blocks do not"),
        (-16, bytes(8), "its hash is another one"),
        (20, bytes(8), "damaged"),
    ],
)
def test_a_damaged_file_is_told_by_verify_and_stops_nobody(
    job: ChannelJob, tokenizer: Tokenizer, tmp_path: Path, place: int, content: bytes, reason: str
) -> None:
    make(job, tokenizer)
    part = parts_of(job.folder)[0]
    damage(part.provenance_path, place, content)
    result = CliRunner().invoke(root, ["data", "verify", str(job.folder)])
    assert result.exit_code == 65 and "BAD" in result.output and reason in result.output, result.output
    with Provenances({"zh": job.folder}) as known:
        first, *_ = known.of("zh", part.name, [0, part.num_documents - 1])
        assert first == Provenance("", 0) or reason == "its hash is another one"
    with pytest.raises(DataError, match="part-00000.provenance"):
        merge_channels([job.folder], tmp_path / "merged", None, lambda _: None)


def test_absurdly_many_names_of_files_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.provenance"
    writer = ProvenanceWriter(path)
    writer.add(Provenance("a", 1))
    names = b"\0" * (60 << 20)
    monkeypatch.setattr(
        "data_prep.text.provenance_writer.packed_file_names", lambda _: (zlib.compress(names), len(names))
    )
    writer.finish(0)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="the names of files are not as long as it says, or more than 1,048,576"):
            open_provenance(path)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_an_entry_that_points_nowhere_is_damage(tmp_path: Path) -> None:
    from harness.channels import provenance

    path = tmp_path / "x.provenance"
    for files, lines, pieces, names, reason in (
        ([5], [1], [0], [b""], "a file is not"),
        ([-2], [1], [0], [b""], "a file is not"),
        ([0], [-1], [0], [b""], "a line is not"),
        ([0], [2**60], [0], [b""], "a line is not"),
        ([0], [1], [-1], [b""], "a piece is not"),
        ([0], [1], [0], [b"x" * 2000], "longer or shorter|the size of a name"),
    ):
        writer = ProvenanceWriter(path)
        writer.add(Provenance("a", 1))
        writer._open.clear()
        writer._write(provenance.pack_block(files, lines, pieces, names))
        writer._ends.append(writer._position)
        writer.finish(0)
        opened = open_provenance(path)
        assert opened is not None
        with opened, pytest.raises(DataError, match=reason):
            opened.entry(0)


@pytest.mark.parametrize("becomes", ["pipe", "folder", "nothing", "zeros"])
def test_what_is_no_file_is_refused_or_passed_over(job: ChannelJob, tokenizer: Tokenizer, becomes: str) -> None:
    import os

    make(job, tokenizer)
    path = parts_of(job.folder)[0].provenance_path
    path.unlink()
    if becomes == "pipe":
        os.mkfifo(path)
    elif becomes == "folder":
        path.mkdir()
    elif becomes == "nothing":
        path.symlink_to("nowhere")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 42)
    with Provenances({"zh": job.folder}) as known:
        assert known.of("zh", "part-00000", [0, 1]) == [Provenance("", 0)] * 2
        assert known.of("zh", "part-00099", [0]) == known.of("other", "part-00000", [0]) == [Provenance("", 0)]
        assert known.of("zh", "part-00001", [0])[0].line > 0


def test_text_that_was_changed_after_it_was_cleaned_is_refused(
    job: ChannelJob, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    order_files(OrderJob(files=job.inputs, folder=tmp_path / "out", by="shuffle"))
    file = tmp_path / "out" / "00000.jsonl.gz"
    file.write_bytes(file.read_bytes() + gzip.compress(b'{"text": "one more"}\n'))
    with pytest.raises(DataError, match=r"00000\.jsonl\.gz\.provenance does not belong to the file beside it"):
        make(replace(job, inputs=[file]), tokenizer)
    (tmp_path / "out" / "00000.jsonl.gz.provenance").unlink()
    make(replace(job, inputs=[file], folder=tmp_path / "again"), tokenizer)
    [entry, *_] = all_of_part(parts_of(tmp_path / "again")[0])
    assert entry.file == str(file)


def test_hostile_ids_are_shown_in_one_line(
    job: ChannelJob, tokenizer: Tokenizer, model_file: Path, tmp_path: Path
) -> None:
    url = "https://x.example/\u001b[31m\nharness: error: \u202e" + "a" * 2000
    file = write_lines(tmp_path / "some.jsonl", {"text": "一", "url": url}, {"text": "二"})
    with file.open("a") as more:
        more.write(json.dumps({"text": "三", "url": "\ud800"}) + "\n")
    make(replace(job, inputs=[file], folder=tmp_path / "data"), tokenizer)
    shown = run("show", tmp_path / "data", "--tokenizer", model_file, "--document", "0", "--document", "2")
    [first, second] = [line for line in shown.splitlines() if line.startswith("   from ")]
    assert "\\u001b[31m\\nharness: error: \\u202e" in first and len(first) < 700
    assert second.endswith(f"{file}:3  ?")


def test_many_entries_take_a_few_bytes_each(tmp_path: Path) -> None:
    path, generator = tmp_path / "x.provenance", random.Random(1)
    writer = ProvenanceWriter(path)
    entries = [
        Provenance(f"raw/{generator.randrange(1000):05d}.jsonl.gz", generator.randrange(1, 60_000))
        for _ in range(20_000)
    ]
    for entry in entries:
        writer.add(entry)
    writer.finish(17)
    assert path.stat().st_size < 5 * len(entries)
    opened = open_provenance(path)
    assert opened is not None
    with opened:
        opened.require_owner(17, len(entries))
        opened.require_whole()
        assert list(opened.entries()) == entries
        assert opened.entry(19_999) == entries[-1] and opened.entry(3) == entries[3]
        with pytest.raises(DataError, match="entry 20,000 was asked for"):
            opened.entry(20_000)


def test_rows_of_parquet_have_their_ids(job: ChannelJob, tokenizer: Tokenizer, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = [f"第{number}" for number in range(30)]
    urls = [f"https://example.org/{number}" if number % 3 else None for number in range(30)]
    tables = {
        "urls": {"text": texts, "metadata": [{"url": url, "n": 1.5} for url in urls], "id": list(range(30))},
        "none": {"text": texts, "id": [1.5] * 30},
        "dots": {"text": texts, "a.b": urls, "own": [f"o{number}" for number in range(30)]},
    }
    expected = {
        "urls": [url or str(number) for number, url in enumerate(urls)],
        "none": [""] * 30,
        "dots": [f"o{number}" for number in range(30)],
    }
    for name, columns in tables.items():
        file = tmp_path / f"{name}.parquet"
        parquet.write_table(arrow.table(columns), file, row_group_size=7)
        made = replace(job, inputs=[file], folder=tmp_path / name, id_key="own" if name == "dots" else None)
        make(made, tokenizer)
        [part] = parts_of(made.folder)
        assert list(all_of_part(part)) == [
            Provenance(str(file), row, found) for row, found in enumerate(expected[name], start=1)
        ]


def test_appended_files_are_named_too(model_file: Path, tmp_path: Path) -> None:
    for number in range(2):
        records = [{"text": f"{number} {line}", "url": f"u{line}", "own": f"o{line}"} for line in range(5)]
        write_lines(tmp_path / f"{number}.jsonl", *records)
    arguments = ["--tokenizer", model_file, "--channel", "zh", "--output", tmp_path / "data", "--max-lost-share", "1"]
    run("tokenize", tmp_path / "0.jsonl", *arguments)
    run("append", tmp_path / "1.jsonl", *arguments, "--id-key", "own")
    first, second = (list(all_of_part(part)) for part in parts_of(tmp_path / "data" / "zh"))
    assert first == [Provenance(str(tmp_path / "0.jsonl"), line + 1, f"u{line}") for line in range(5)]
    assert second == [Provenance(str(tmp_path / "1.jsonl"), line + 1, f"o{line}") for line in range(5)]


def test_the_record_beside_a_file_at_an_address_is_read(job: ChannelJob, tokenizer: Tokenizer, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    (tmp_path / "out").mkdir()
    order_files(OrderJob(files=job.inputs, folder=tmp_path / "out", by="shuffle"))
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "out").iterdir():
        memory.pipe(f"/provenance/{path.name}", path.read_bytes())
    names = []
    for address in ("memory://provenance/00000.jsonl.gz", str(tmp_path / "out" / "00000.jsonl.gz")):
        folder = tmp_path / f"data-{len(names)}"
        make(replace(job, inputs=find_inputs([address]), folder=folder), tokenizer)
        names.append([each for part in parts_of(folder) for each in all_of_part(part)])
    assert names[0] == names[1]
    assert {each.file for each in names[0]} == set(map(str, job.inputs))
    memory.rm("/provenance/00000.jsonl.gz.provenance")
    make(replace(job, inputs=find_inputs(["memory://provenance/00000.jsonl.gz"]), folder=tmp_path / "own"), tokenizer)
    assert next(all_of_part(parts_of(tmp_path / "own")[0])).file == "memory:///provenance/00000.jsonl.gz"
