"""What lies under an argument is read, or it is told why not."""

from __future__ import annotations

import bz2
import glob
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.text.file_kinds import kind_of
from data_prep.text.input_files import find_inputs
from data_prep.text.named_inputs import named_inputs
from data_prep.text.patterns import matches
from data_prep.text.read_documents import read_records
from data_prep.text.text_files import output_names, written_whole
from harness.errors import DataError, UsageError

TEXTS = ["one", "春眠不觉晓", "three"]
LINES = b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in TEXTS)
ARRAY = json.dumps([{"text": text} for text in TEXTS]).encode()
PRETTY_ARRAY = json.dumps([{"text": text} for text in TEXTS], indent=2).encode()
PRETTY = json.dumps({"name": "corpus", "splits": {"train": 3}}, indent=2).encode()


def zstd(content: bytes) -> bytes:
    packed: bytes = pytest.importorskip("zstandard").compress(content)
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstd,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def write(file: Path, content: bytes = LINES) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = kind_of(file.name)
    packing = "" if kind is None or kind.packing == "plain" else f".{kind.packing}"
    file.write_bytes(PACKERS[packing](content))
    return file


def found(*arguments: Path | str) -> tuple[list[str], list[str]]:
    """The last pieces of the paths that are read, and what was told."""
    told: list[str] = []
    return [file.name for file in find_inputs([str(each) for each in arguments], told.append)], told


@pytest.mark.parametrize("packing", list(PACKERS))
@pytest.mark.parametrize("base", [".jsonl", ".json", ".ndjson"])
def test_every_name_of_lines_of_json_is_read_in_any_case(tmp_path: Path, base: str, packing: str) -> None:
    for name in (f"c4-train.00000-of-01024{base}{packing}", f"B{base}{packing}".upper()):
        file = write(tmp_path / name)
        assert find_inputs([str(file)]) == [file]
        assert [record.content for record in read_records(file, "text")] == TEXTS
    names, told = found(tmp_path)
    assert len(names) == 2 and not told


def test_parquet_in_capitals(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": TEXTS}), tmp_path / "A.PARQUET")
    (file,) = find_inputs([str(tmp_path)])
    assert [record.content for record in read_records(file, "text")] == TEXTS
    assert output_names([file]) == ["A.jsonl.gz"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz.part", "jsonl", "a.csv.gz", "a.jsonl.zip", "a.parquet.gz"])
def test_other_names_are_not_read(name: str) -> None:
    assert kind_of(name) is None


def test_of_a_folder_it_is_told_what_is_left_out_and_why(tmp_path: Path) -> None:
    for name in ("a.jsonl", "B.JSON.GZ", "c.csv", "d.txt", "deep/e.md", "f.warc", ".cache/x.jsonl", ".g.jsonl"):
        write(tmp_path / name)
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    names, told = found(tmp_path)
    assert names == ["B.JSON.GZ", "a.jsonl"]
    assert [line.removeprefix(f"input {tmp_path}: ") for line in sorted(told)] == [
        "1 is left out, no file: a link that leads nowhere, or a device: gone.jsonl",
        "2 are left out, hidden: .cache, .g.jsonl",
        "4 are left out, the name ends in none of .jsonl, .jsonl.gz, .jsonl.zst, .jsonl.bz2, .jsonl.xz (the same with "
        ".json or .ndjson) or .parquet: c.csv, d.txt, deep/e.md and 1 more",
    ]


def test_of_a_pattern_too_and_the_folders_that_it_names_are_read(tmp_path: Path) -> None:
    for name in ("raw/a.jsonl", "raw/b.txt", "raw/2024/c.jsonl.gz", "raw/2024/d.txt"):
        write(tmp_path / name)
    names, told = found(tmp_path / "raw" / "*")
    assert names == ["c.jsonl.gz", "a.jsonl"]
    (line,) = told
    assert line.endswith(f"{tmp_path}/raw/2024/d.txt, {tmp_path}/raw/b.txt")
    assert found(tmp_path / "raw" / "**")[0] == ["c.jsonl.gz", "a.jsonl"]


def test_nothing_that_is_read_says_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    with pytest.raises(UsageError, match=r"no input at .*1 is left out, the name ends in none of .*: a\.csv\. Check"):
        find_inputs([str(tmp_path)])


def test_linked_folders_and_files_are_read(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl")
    write(tmp_path / "real" / "deep" / "b.jsonl")
    write(tmp_path / "blobs" / "0123abcd")
    (tmp_path / "in" / "part2").symlink_to(tmp_path / "real")
    (tmp_path / "in" / "c.jsonl").symlink_to(tmp_path / "blobs" / "0123abcd")
    assert found(tmp_path / "in") == (["a.jsonl", "c.jsonl", "b.jsonl"], [])
    (tmp_path / "all").symlink_to(tmp_path / "in")
    assert found(tmp_path / "all") == (["a.jsonl", "c.jsonl", "b.jsonl"], [])


def test_links_in_a_circle_end_and_a_file_that_two_links_lead_to_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl")
    write(tmp_path / "in" / "deep" / "b.jsonl")
    (tmp_path / "in" / "deep" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "same").symlink_to(tmp_path / "in" / "deep")
    (tmp_path / "in" / "z.jsonl").symlink_to(tmp_path / "in" / "a.jsonl")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in" / "self")
    names, told = found(tmp_path / "in")
    assert names == ["a.jsonl", "b.jsonl"]
    text = "\n".join(told)
    assert "3 are left out, read already under another name: deep/up, same, z.jsonl" in text
    assert "left out, the name ends in none of" in text and "self" in text


def test_a_file_that_two_arguments_name_is_refused_also_through_a_link(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl")
    (tmp_path / "other").symlink_to(tmp_path / "in")
    with pytest.raises(UsageError, match=r"a\.jsonl is named twice: its documents would be doubled"):
        find_inputs([str(tmp_path / "in"), str(tmp_path / "other")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "shut" / "a.jsonl").parent.chmod(0)
    write(tmp_path / "b.jsonl")
    try:
        with pytest.raises(DataError, match=r"shut: the folder cannot be read .*Correct its permissions"):
            find_inputs([str(tmp_path)])
    finally:
        (tmp_path / "shut").chmod(0o700)


@pytest.mark.parametrize("content", [ARRAY, PRETTY_ARRAY, b"\xef\xbb\xbf \n" + ARRAY, b"[]"])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.JSON"])
def test_a_json_array_is_refused_before_anything_starts(tmp_path: Path, name: str, content: bytes) -> None:
    file = write(tmp_path / name, content)
    write(tmp_path / "b.jsonl")
    for argument in (file, tmp_path):
        with pytest.raises(DataError, match=r"the file is a JSON array\. Read are lines of JSON: .*jq -c '\.\[\]' a\."):
            find_inputs([str(argument)])


def test_a_json_value_under_another_name_is_refused_when_it_is_read(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.ndjson.gz"):
        with pytest.raises(DataError, match="the file is a JSON array"):
            list(read_records(write(tmp_path / name, PRETTY_ARRAY), "text"))


def test_settings_beside_text_are_left_out_with_a_word_and_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    settings = write(tmp_path / "dataset_info.json", PRETTY)
    names, told = found(tmp_path)
    assert names == ["a.jsonl"]
    assert told == [
        f"input {tmp_path}: 1 is left out, one JSON object over several lines, not lines of JSON: dataset_info.json"
    ]
    with pytest.raises(DataError, match=r"the file is a JSON object over several lines\. .*jq -c '\.' dataset_info"):
        find_inputs([str(settings)])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n \n" + LINES,
        b'{"text": "cut short",\n' + LINES,
        b"[INFO] fetched\n" + LINES,
        b"{\n" + LINES,
        b'{"text": "one", "more": {"a": [1,\n{"text": "two"}\n',
        LINES[:-1],
    ],
)
def test_lines_of_which_some_are_broken_are_lines(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path / "a.json", content)
    assert find_inputs([str(file)]) == [file]
    list(read_records(file, "text"))


def test_our_own_records_beside_text_are_passed_over_and_text_of_that_name_is_read(tmp_path: Path) -> None:
    record = [{"file": "a.jsonl", "input": "x", "kept_characters": 1}]
    write(tmp_path / "ours" / "files.json", json.dumps(record, indent=1).encode())
    for name in ("a.jsonl", "a.jsonl.dropped", ".stages/plan.json", ".lock"):
        write(tmp_path / "ours" / name)
    assert found(tmp_path / "ours") == (["a.jsonl"], [])
    theirs = write(tmp_path / "theirs" / "files.json")
    assert found(tmp_path / "theirs") == (["files.json"], [])
    assert output_names([theirs]) == ["files-2.json"]


def test_at_an_address_the_same_is_told() -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    try:
        for name in ("a.JSONL", "deep/b.json.gz", "deep/c.csv", ".cache/x.jsonl", ".stages/y.jsonl"):
            kind = kind_of(name)
            system.pipe(f"/told/{name}", gzip.compress(LINES) if kind and kind.packing == "gz" else LINES)
        system.pipe("/told/info.json", PRETTY)
        names, told = found("memory://told")
        assert names == ["a.JSONL", "b.json.gz"]
        assert sorted(line.rpartition(": ")[2] for line in told) == [
            ".cache/x.jsonl, .stages/y.jsonl",
            "deep/c.csv",
            "info.json",
        ]
        names, told = found("memory://told/*")
        assert names == ["a.JSONL", "b.json.gz"]
        system.pipe("/told/array.json", ARRAY)
        with pytest.raises(DataError, match="the file is a JSON array"):
            find_inputs(["memory://told"])
    finally:
        system.rm("/told", recursive=True)


@pytest.mark.parametrize("name", ["a.jsonl.bz2", "a.JSONL.XZ", "a.json.zst", "a.ndjson.gz", "a.json"])
def test_text_is_written_as_its_name_says(tmp_path: Path, name: str) -> None:
    with written_whole(tmp_path / name) as stream:
        stream.write(LINES)
    assert [record.content for record in read_records(tmp_path / name, "text")] == TEXTS


@pytest.mark.parametrize("name", ["a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.gz", "a.jsonl.zst"])
def test_packed_files_that_are_cut_short_or_altered_are_refused(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, LINES * 2000)
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-1], b"not packed at all"):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cannot be read beyond line \d+ .*damaged or cut short"):
            list(read_records(file, "text"))


@pytest.mark.parametrize("name", ["a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.gz", "a.jsonl.zst"])
def test_packed_files_of_several_pieces_are_read_to_their_end(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    file.write_bytes(file.read_bytes() * 3)
    records = list(read_records(file, "text"))
    assert [record.content for record in records] == TEXTS * 3
    assert list(read_records(file, "text", start=records[3].end)) == records[4:]


@pytest.mark.parametrize("window_log", [28, 31])
def test_zstandard_with_a_long_window_is_read(tmp_path: Path, window_log: int) -> None:
    library = pytest.importorskip("zstandard")
    # Without its size in the header a frame needs the whole window.
    settings = library.ZstdCompressionParameters.from_level(3, window_log=window_log, enable_ldm=True)
    packer = library.ZstdCompressor(compression_params=settings).compressobj()
    (tmp_path / "a.jsonl.zst").write_bytes(packer.compress(LINES) + packer.flush())
    assert [record.content for record in read_records(tmp_path / "a.jsonl.zst", "text")] == TEXTS


def test_zstandard_with_skippable_frames_is_read(tmp_path: Path) -> None:
    note = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    (tmp_path / "a.jsonl.zst").write_bytes(note + zstd(LINES) + note + zstd(LINES) + note)
    assert [record.content for record in read_records(tmp_path / "a.jsonl.zst", "text")] == TEXTS * 2


@pytest.mark.parametrize("pattern", ["**/*.jsonl", "**/**/*.jsonl", "**", "*/../**/[ab].jsonl"])
def test_patterns_end_where_links_go_in_circles(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "cyc" / "a.jsonl")
    write(tmp_path / "cyc" / "deep" / "b.jsonl")
    (tmp_path / "cyc" / "self").symlink_to(".")
    (tmp_path / "cyc" / "up").symlink_to("../cyc")
    names, _ = found(tmp_path / "cyc" / pattern)
    assert sorted(names) == ["a.jsonl", "b.jsonl"]


def test_patterns_name_what_those_of_the_shell_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.jsonl", "a/b/2.jsonl", "a/b/c/3.jsonl", "a/.h/4.jsonl", "a/[x]/5.jsonl", "a/.6.jsonl", "7.jsonl"):
        write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for pattern in (
        *("a/*", "a/**", "**/*.jsonl", "a/**/[23].jsonl", "*/b/*", "a/?/*.jsonl", "a/[[]x]/*", "./a/*/*.jsonl"),
        *("a/.*/*.jsonl", "no/*", "a/1.jsonl/*", "**/c/**/*.jsonl", f"{tmp_path}/*/*.jsonl"),
    ):
        expected = {Path(match) for match in glob.glob(pattern, recursive=True)}  # noqa: PTH207
        reached = set(matches(pattern))
        # Behind a last `**` the folder itself is named, and all of it is read.
        assert reached == ({Path("a")} if pattern == "a/**" else expected), pattern


def test_a_linked_folder_is_searched_by_a_pattern(tmp_path: Path) -> None:
    write(tmp_path / "blobs" / "deep" / "a.jsonl")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "blobs")
    assert found(tmp_path / "in" / "**" / "*.jsonl") == (["a.jsonl"], [])


@pytest.mark.parametrize("argument", ["", " ", "\t"])
def test_an_argument_of_nothing_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    write(tmp_path / "a.jsonl")
    monkeypatch.chdir(tmp_path)
    for read in (lambda: find_inputs([argument]), lambda: named_inputs([f"zh={argument}", "."])):
        with pytest.raises(UsageError, match=r"names nothing \(an unset variable of the shell\?\)"):
            read()
    with pytest.raises(UsageError, match=r"'=a\.jsonl' names no channel"):
        named_inputs(["=a.jsonl"])
    assert len(find_inputs(["."])) == 1


def test_hard_links_to_one_file_are_read_once(tmp_path: Path) -> None:
    os.link(write(tmp_path / "in" / "a.jsonl"), tmp_path / "in" / "b.jsonl")
    (tmp_path / "other").mkdir()
    os.link(tmp_path / "in" / "a.jsonl", tmp_path / "other" / "c.jsonl")
    write(tmp_path / "in" / "equal.jsonl")
    names, told = found(tmp_path / "in")
    assert names == ["a.jsonl", "equal.jsonl"]
    assert told == [f"input {tmp_path}/in: 1 is left out, read already under another name: b.jsonl"]
    with pytest.raises(UsageError, match=r"c\.jsonl is named twice: .*It is also .*in/a\.jsonl\."):
        find_inputs([str(tmp_path / "in"), str(tmp_path / "other")])


@pytest.mark.parametrize("name", [b"a\xff.jsonl", b"\xe9t\xe9/b.jsonl"])
def test_names_that_are_not_utf8_are_refused_or_shown(tmp_path: Path, name: bytes) -> None:
    file = write(tmp_path / "in" / os.fsdecode(name))
    for argument in (file, tmp_path / "in", tmp_path / "in" / "**" / "*.jsonl"):
        with pytest.raises(DataError, match=r"\\udc(ff|e9).*is not UTF-8\. Rename it") as at:
            find_inputs([str(argument)])
        str(at.value).encode()
    file.rename(tmp_path / "in" / os.fsdecode(b"a\xff.txt"))
    write(tmp_path / "in" / "b.jsonl")
    names, told = found(tmp_path / "in")
    assert names == ["b.jsonl"]
    assert "a\\udcff.txt" in "".join(told)
