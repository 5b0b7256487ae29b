from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from data_prep.text.input_files import find_inputs
from data_prep.text.order_files import OrderJob, order_files
from harness.errors import DataError


@pytest.fixture
def raw(tmp_path: Path, poems: list[str]) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    records = [{"text": poem, "score": (number * 37) % 200, "id": number} for number, poem in enumerate(poems[:200])]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (folder / "a.jsonl").write_text("\n".join([*lines[:120], "not JSON"]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[120:]).encode()))
    return folder


def ordered(raw: Path, **options: Any) -> list[dict[str, Any]]:
    folder = raw.parent / f"out-{len(list(raw.parent.iterdir()))}"
    folder.mkdir()
    result = order_files(OrderJob(files=find_inputs([str(raw)]), folder=folder, **options))
    written = [name for file in result.files for name in (file, f"{file}.provenance")]
    assert sorted(path.name for path in folder.iterdir()) == written
    lines = [line for name in result.files for line in gzip.decompress((folder / name).read_bytes()).splitlines()]
    assert (result.documents, result.rejected) == (len(lines), 1)
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("bucket_bytes", [1, 3000, 10**9])
def test_by_score(raw: Path, bucket_bytes: int) -> None:
    up = ordered(raw, by="score", bucket_bytes=bucket_bytes)
    assert [record["score"] for record in up] == list(range(200))
    down = ordered(raw, by="score", descending=True, bucket_bytes=bucket_bytes)
    assert down == up[::-1]


def test_equal_scores_keep_their_order(raw: Path) -> None:
    (raw / "a.jsonl").write_text("".join(json.dumps({"text": f"t{n}", "score": n % 2}) + "\n" for n in range(10)) + "x")
    (raw / "b.jsonl.gz").unlink()
    texts = [record["text"] for record in ordered(raw, by="score")]
    assert texts == [f"t{n}" for n in (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)]


def test_shuffled_by_a_seed(raw: Path) -> None:
    one, again, other = (ordered(raw, by="shuffle", seed=seed) for seed in (0, 0, 1))
    assert one == again != other
    assert sorted(record["id"] for record in one) == sorted(record["id"] for record in other) == list(range(200))


def test_like_ones_next_to_each_other(raw: Path) -> None:
    (raw / "a.jsonl").write_text("x")
    english = "the wind of the north and the sun disputed which was the stronger of the two that day"
    chinese = "北风与太阳正在争论谁比较有本事他们看到有个人走过"
    kinds = [english if number % 2 else chinese for number in range(60)]
    lines = [json.dumps({"text": f"{text} {number % 7}"}) for number, text in enumerate(kinds)]
    (raw / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    is_english = [record["text"].startswith("the") for record in ordered(raw, by="similar")]
    assert sum(one != other for one, other in zip(is_english, is_english[1:], strict=False)) == 1


def test_files_are_of_about_a_size(raw: Path) -> None:
    folder = raw.parent / "out"
    folder.mkdir()
    job = OrderJob(files=find_inputs([str(raw)]), folder=folder, by="shuffle", bytes_per_file=10_000)
    names = order_files(job).files
    assert names == [f"{number:05d}.jsonl.gz" for number in range(len(names))] and len(names) > 2
    sizes = [len(gzip.decompress((folder / name).read_bytes())) for name in names]
    assert all(10_000 <= size < 14_000 for size in sizes[:-1])


@pytest.mark.parametrize("score", [None, "3", True, float("nan")])
def test_a_record_without_a_score_is_named(raw: Path, score: object) -> None:
    with (raw / "a.jsonl").open("a") as lines:
        lines.write("\n" + json.dumps({"text": "t", "score": score}))
    with pytest.raises(DataError, match=r"a\.jsonl: line 122 has no number under 'score' \(found .*--score-key"):
        ordered(raw, by="score")


def test_rows_of_parquet_keep_their_columns(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    when = [datetime.datetime(2026, 1, 1), None, datetime.datetime(2026, 1, 3)]
    columns = {"body": ["b", "a", None], "score": [2.5, -1.0, 0.0], "tags": [["x"], [], None], "when": when}
    (tmp_path / "raw").mkdir()
    parquet.write_table(arrow.table(columns), tmp_path / "raw" / "a.parquet")
    assert ordered(tmp_path / "raw", by="score", text_key="body") == [
        {"body": "a", "score": -1.0, "tags": [], "when": None},
        {"body": "b", "score": 2.5, "tags": ["x"], "when": "2026-01-01 00:00:00"},
    ]


def test_the_command(raw: Path, tmp_path: Path) -> None:
    pytest.importorskip("datatrove")
    from data_prep.verbs.corpus_verbs import order

    options = ["--by", "score", "--descending", "--output", str(tmp_path / "ordered")]
    result = CliRunner().invoke(order, [str(raw), *options])
    assert result.exception is None, result.exception
    assert result.stdout.startswith(f"{tmp_path}/ordered: kept 200 of 201 documents")
    (file,) = find_inputs([str(tmp_path / "ordered")])
    assert json.loads(gzip.decompress(Path(str(file)).read_bytes()).splitlines()[0])["score"] == 199


def test_by_label(raw: Path) -> None:
    """Equal labels are next to each other, in the order of the alphabet; those without one are last."""
    labels = ["b", None, "a", 7]
    lines = [json.loads(line) for line in (raw / "a.jsonl").read_text().splitlines()[:120]]
    for line in lines:
        line |= {"topic": labels[line["id"] % 4]} if line["id"] % 4 != 1 or line["id"] % 8 == 1 else {}
    (raw / "a.jsonl").write_text("\n".join([*map(json.dumps, lines), "not JSON"]))
    (raw / "b.jsonl.gz").unlink()
    found = ordered(raw, by="label")
    places = [[number for number in range(120) if number % 4 == rest] for rest in (3, 2, 0, 1)]
    assert [line["id"] for line in found] == sum(places, [])
    (raw / "a.jsonl").write_text(json.dumps({"text": "a", "topic": ["b"]}))
    with pytest.raises(DataError, match=r"line 1 has \['b'\] under 'topic', and a label is text or a number"):
        ordered(raw, by="label")
