from __future__ import annotations

import gzip
import json
import sysconfig
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import data_prep.demo
from data_prep.demo import build
from data_prep.demo.__main__ import main
from data_prep.demo.build import CHANNELS, DemoSettings, build_demo, standard_library_documents
from harness.errors import DataError, UsageError
from harness.tokenizers.tokenizer import open_tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Megatron warns of every optional package that is missing
    from megatron.core.datasets.indexed_dataset import IndexedDataset

SHIPPED = Path(data_prep.demo.__file__).parent
SMALL = DemoSettings(code_bytes=100_000, sample_characters=100_000)


def shipped_texts(channel: str) -> list[str]:
    with gzip.open(SHIPPED / f"{channel}.jsonl.gz") as lines:
        return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    build_demo(out, [].append, SMALL)
    return out


def stamps(out: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}


def test_channels_hold_the_text(demo: Path) -> None:
    tokenizer = open_tokenizer(demo / "tokenizer.model")
    assert tokenizer.vocab_size == 4096
    expected = {
        "zh": shipped_texts("zh"),
        "en": shipped_texts("en"),
        "code": list(standard_library_documents(SMALL)),
    }
    for channel in CHANNELS:
        dataset = IndexedDataset(str(demo / "channels" / channel / "part-00000"))
        documents = [dataset[i].tolist() for i in range(len(dataset))]
        assert {ids[-1] for ids in documents} == {tokenizer.end_of_document_id}
        assert [tokenizer.decode(ids[:-1]) for ids in documents] == expected[channel]


def test_second_call_changes_nothing(demo: Path) -> None:
    before = stamps(demo)
    said: list[str] = []
    build_demo(demo, said.append, SMALL)
    assert said == [f"{demo}: the demo's tokenizer and channels are there already"]
    assert stamps(demo) == before


def test_same_text_gives_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    build_demo(tmp_path, [].append, SMALL)
    for name in ("tokenizer.model", "channels/zh/part-00000.bin", "channels/code/part-00000.bin"):
        assert (tmp_path / name).read_bytes() == (demo / name).read_bytes()


def test_interrupted_call_is_continued(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_channel = build._make_channel

    def fail_at_code(source: Path, folder: Path, tokenizer: object) -> str:
        if folder.name == "code":
            raise KeyboardInterrupt
        return make_channel(source, folder, tokenizer)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "_make_channel", fail_at_code)
    with pytest.raises(KeyboardInterrupt):
        build_demo(tmp_path, [].append, SMALL)
    monkeypatch.undo()
    build_demo(tmp_path, [].append, SMALL)
    assert (tmp_path / "demo.json").read_bytes() == (demo / "demo.json").read_bytes()


def test_other_settings_and_lost_files_make_it_anew(tmp_path: Path) -> None:
    build_demo(tmp_path, [].append, SMALL)
    first = json.loads((tmp_path / "channels/code/parts.jsonl").read_text())
    larger = replace(SMALL, code_bytes=200_000)
    build_demo(tmp_path, [].append, larger)
    second = json.loads((tmp_path / "channels/code/parts.jsonl").read_text())
    assert second["tokens"] > first["tokens"]
    (tmp_path / "tokenizer.model").unlink()
    build_demo(tmp_path, [].append, larger)
    assert (tmp_path / "tokenizer.model").exists()


def test_channels_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "channels" / "zh").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"holds channels that are not the demo's \(no demo\.json\)\. They stay"):
        build_demo(tmp_path, [].append, SMALL)


def test_python_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match="has no source files of Python's standard library.*Use a complete Python"):
        list(standard_library_documents(SMALL))


def test_shipped_text_is_small_real_and_distinct() -> None:
    files = [SHIPPED / "zh.jsonl.gz", SHIPPED / "en.jsonl.gz"]
    assert sum(file.stat().st_size for file in files) < 3_000_000
    assert all(file.read_bytes()[4:8] == b"\0\0\0\0" for file in files), "the gzip header has a time"
    chinese, english = shipped_texts("zh"), shipped_texts("en")
    assert sum(len(text.encode()) for text in chinese) > 600_000
    assert sum(len(text) for text in english) > 1_000_000
    assert any("床前明月光" in text for text in chinese)
    assert "a single man in possession of a good fortune" in english[0]
    assert len(set(chinese)) > 0.99 * len(chinese)
    assert not any("毛泽东" in text or "Debian" in text for text in chinese)


def test_every_shipped_file_has_its_source_noted() -> None:
    sources = (SHIPPED / "SOURCES.md").read_text()
    for file in SHIPPED.glob("*.gz"):
        with gzip.open(file) as lines:
            count = sum(1 for _ in lines)
        assert f"| `{file.name}` | {count:,} |" in sources


def test_command_line(tmp_path: Path) -> None:
    (tmp_path / "channels").mkdir()
    result = CliRunner().invoke(main, [str(tmp_path)])
    assert result.exit_code == 64
    assert result.stderr.startswith(f"error: {tmp_path} holds channels that are not the demo's")
