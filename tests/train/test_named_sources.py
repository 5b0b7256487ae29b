"""Evidence, `data where` and `data show --step` name the source of each document; training never looks at it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pool import Pool
from small_run import CHANNELS, Grid, column, launch, small_config

from data_prep.text.provenance_writer import ProvenanceWriter
from harness.channels.provenance import Provenance
from harness.cli import root
from harness.data.files.opened import parts_of
from harness.run import metric_names as names
from harness.run.evidence import read_evidence
from harness.run.paths import RunDir

SAVING = {"checkpoint.save_every_steps": 2}
HOSTILE = "https://x.example/\x1b[2J\n"


def origin_of(channel: str, document: int) -> Provenance:
    """What the test writes of a document."""
    return Provenance(f"raw/{channel}/{document % 3}.jsonl.gz", 10 + document, f"{HOSTILE}{channel}/{document}")


@pytest.fixture
def named(corpus: Path, tmp_path: Path) -> Path:
    """The channels, with the sources of all their documents."""
    folder = tmp_path / "data"
    shutil.copytree(corpus, folder)
    for channel in CHANNELS:
        for part in parts_of(folder / channel):
            writer = ProvenanceWriter(part.provenance_path)
            for document in range(part.num_documents):
                writer.add(origin_of(channel, document))
            writer.finish(int(part.xxh3 or "0", 16))
    return folder


def evidence(run_dir: Path) -> list[Path]:
    events = [json.loads(line) for line in RunDir(run_dir).events.read_text().splitlines()]
    return [Path(event["path"]) for event in events if event["kind"] == "evidence"]


def ask(run_dir: Path) -> None:
    (RunDir(run_dir).signals / "look.json").write_text(json.dumps({"kind": "evidence", "steps": [2, 3]}))


def called(*arguments: str) -> str:
    result = CliRunner().invoke(root, ["data", *arguments])
    assert result.exit_code == 0, (result.exception, result.output)
    return result.output


@pytest.mark.slow
def test_the_documents_of_a_step_are_named_by_their_sources(
    pool: Pool, corpus: Path, named: Path, tmp_path: Path
) -> None:
    plain, run_dir = tmp_path / "plain", tmp_path / "run"
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 4, **SAVING}), plain, "never")
    config = small_config(named, Grid(), {"run.stop_at_step": 4, **SAVING})
    # A pipe in its place would hold up whoever opens it: training does not.
    files = {
        part.provenance_path: part.provenance_path.read_bytes() for each in CHANNELS for part in parts_of(named / each)
    }
    for path in files:
        path.unlink()
        os.mkfifo(path)
    launch(pool, config, run_dir, "never")
    assert column(run_dir, names.LM_LOSS) == column(plain, names.LM_LOSS)
    for path, content in files.items():
        path.unlink()
        path.write_bytes(content)
    RunDir(run_dir).config.write_text(yaml.safe_dump(config.model_dump(mode="json")))

    where = json.loads(called("where", str(run_dir), "--step", "3", "--json"))
    assert where["parts"]
    for part in where["parts"]:
        expected = [origin_of(part["channel"], document)._asdict() for document in part["documents"]]
        assert part["provenance"] == expected
    text = called("where", str(run_dir), "--step", "3")
    first = where["parts"][0]
    document = first["documents"][0]
    told = (
        f"  {document}  raw/{first['channel']}/{document % 3}.jsonl.gz:{10 + document}  https://x.example/\\u001b[2J\\n"
    )
    assert told in text and "\x1b" not in text
    assert "   from raw/" in called("show", str(run_dir), "--step", "3", "--top", "2")

    ask(run_dir)
    launch(pool, config, run_dir, "must")
    [path] = evidence(run_dir)
    samples = read_evidence(path)
    assert samples
    for sample in samples:
        assert sample.provenance == tuple(origin_of(sample.channel, each).in_words() for each in sample.documents)
    damaged = parts_of(named / "zh")[0].provenance_path
    damaged.write_bytes(damaged.read_bytes()[:-20])
    ask(run_dir)
    launch(pool, config, run_dir, "must")
    again = read_evidence(evidence(run_dir)[1])
    assert {sample.channel: bool(sample.provenance) for sample in again} == {"zh": False, "en": True, "code": True}
    assert [sample.loss for sample in again] == [sample.loss for sample in samples]
    text = called("where", str(run_dir), "--step", "3")
    assert any("zh/" in line and line.endswith("(source not recorded)") for line in text.splitlines())


@pytest.mark.slow
def test_channels_without_a_record_are_told_as_before(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    config = small_config(corpus, Grid(), {"run.stop_at_step": 2, **SAVING})
    launch(pool, config, tmp_path, "never")
    RunDir(tmp_path).config.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    where: dict[str, Any] = json.loads(called("where", str(tmp_path), "--step", "2", "--json"))
    assert all(set(part) == {"channel", "part", "documents"} for part in where["parts"])
    lines = called("where", str(tmp_path), "--step", "2").splitlines()
    assert len(lines) == 1 + len(where["parts"]) and all("(source not recorded)" in line for line in lines[1:])
