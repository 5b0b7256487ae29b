"""A slice of the fuzzer, always the same one, with all that it once found; and whether it sees what it looks for.

`make fuzz` goes on as long as one likes. The slice runs in a process of its own: what forks must have no threads.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trials
from absurd import draw_key, draw_value, encoded
from accepted import _means, _steps
from edits import PLACES, Edit, apply_edits, draw_edit
from findings import FOUND, Finding, kept_findings, write_finding
from forked import Limits, Outcome, run_forked
from formats import FORMATS
from fuzz_report import Report, SurfaceReport
from guided import READERS, read
from guided_readers import is_available, kept, play_reader
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Problem, generic_problems
from place import Place
from plain_readers import documents_of_part, parts_of_channel
from process_runs import write_channel
from surfaces import SURFACES, surface_named
from trials import Input, Result, TrialId, draw_input, smaller

from data_prep.channels.indexed_writer import PartWriter, token_dtype
from data_prep.text.provenance_writer import ProvenanceWriter
from harness.channels.provenance import Provenance

REPOSITORY = Path(__file__).parents[2]


def fuzz(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.fuzz", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1500, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_a_slice_of_the_fuzzer_and_all_that_it_found_breaks_nothing(tmp_path: Path) -> None:
    code, text = fuzz("--also-found", "--inputs", "3", "--seed", "7", "--json", str(tmp_path / "x"))
    assert code == 0, text
    counted = json.loads((tmp_path / "x").read_text())
    assert sorted(counted) == sorted(surface.name for surface in SURFACES)
    num_kept = sum(len(list(kept_findings(FOUND, surface.name))) for surface in SURFACES)
    played = sum(times for each in counted.values() for codes in each["codes"].values() for times in codes.values())
    assert played == 3 * len(SURFACES) + num_kept
    accepted = {name: sum(codes.get("0", 0) for codes in each["codes"].values()) for name, each in counted.items()}
    assert sum(accepted.values()) > 6, "what refuses everything is tested by nothing"


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    once = ("--surface", "labels", "--inputs", "4", "--seed", "3", "--state", str(tmp_path / "state"))
    for end in (4, 8):
        _, text = fuzz(*once, "--findings", str(tmp_path / "found"))
        state = json.loads((tmp_path / "state" / "seed-3" / "labels.json").read_text())
        assert state["next_number"] == end, text


def test_damaged_lines_hide_no_step_from_the_judge(tmp_path: Path) -> None:
    lines = ['{"step": 5, "train/lm_loss": 2.5}', "1e9999", "[5]", '"5"', '{"train/lm_loss": 1}', '{"step": 6}', "{"]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert _steps(tmp_path) == {5: (2.5, None, None), 6: (None, None, None)}


def test_every_kept_finding_is_of_a_surface() -> None:
    names = {"guided", *(surface.name.replace(" ", "-") for surface in SURFACES)}
    assert {path.name for path in FOUND.iterdir()} <= names
    for surface in SURFACES:
        for finding in kept_findings(FOUND, surface.name):
            assert surface.command(finding.given.asked)
            assert finding.given.surface == surface.name
            assert finding.path.stat().st_size < 20_000, f"{finding.path} is not small"


@pytest.mark.parametrize(
    ("name", "path"), [pytest.param(*each, id="/".join(each[1].parts[-2:])) for each in kept(FOUND)]
)
def test_what_once_broke_a_reader_breaks_it_no_more(name: str, path: Path) -> None:
    read(name, path.read_bytes())


@pytest.mark.parametrize("name", READERS)
def test_readers_read_what_they_begin_with(name: str) -> None:
    for content in READERS[name].begins:
        read(name, content)
        read(name, content[:-3])


@pytest.mark.skipif(not is_available(), reason="needs Atheris")
def test_atheris_plays_a_reader_and_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        report = play_reader("json", 2.0, tmp_path / "state", tmp_path / "found", seed=1)
        assert report.kinds == {}
        assert report.by_code["0"] > 1000
    assert len(list((tmp_path / "state" / "guided" / "json" / "corpus").iterdir())) > 10


def test_what_breaks_a_reader_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(content: bytes) -> object:
        raise OverflowError("planted")

    monkeypatch.setitem(READERS, "json", replace(READERS["json"], read=breaks))
    with pytest.raises(OverflowError, match="planted"):
        read("json", b"1")


def says(output: bytes = b"", errors: bytes = b"", code: int = 0) -> Callable[[], int]:
    def work() -> int:
        os.write(1, output)
        os.write(2, errors)
        return code

    return work


def _raises() -> int:
    raise ValueError("planted")


def _hoards() -> int:
    hoard = [bytearray(b"x") * 4096 for _ in range(110_000)]
    return len(hoard) * 0


def _is_killed() -> int:
    os.kill(os.getpid(), 9)
    return 0


def _spins() -> int:
    begin = time.process_time()
    while time.process_time() < begin + 0.6:
        pass
    return 0


MESSAGE = b"harness: error: a.json is damaged\n"
TIGHT = Limits(wall_s=1.0, processor_s=0.3, memory_bytes=64 << 20)
ROOMY = Limits(wall_s=60.0, processor_s=60.0, memory_bytes=1 << 30)


@pytest.mark.parametrize(
    ("work", "kind", "limits"),
    [
        (says(b"fine\n"), None, ROOMY),
        (says(errors=MESSAGE, code=65), None, ROOMY),
        (says(errors=b"a warning\n" + MESSAGE, code=64), None, ROOMY),
        (_raises, "traceback: ValueError in nowhere", ROOMY),
        (says(code=65), "0 messages", ROOMY),
        (says(errors=2 * MESSAGE, code=65), "2 messages", ROOMY),
        (says(errors=MESSAGE, code=70), "exit code 70", ROOMY),
        (says(errors=b"harness: error: " + b"x" * 50_000 + b"\n", code=65), "long message", ROOMY),
        (says(errors=b"harness: error: \x1b[2J\n", code=65), "control character in the standard error", ROOMY),
        (says("\u202e".encode()), "control character in the output", ROOMY),
        (says(b"\xff"), "control character in the output", ROOMY),
        (says(b'{"a": NaN}'), "output is not JSON", ROOMY),
        (says(errors=b"thread panicked at src/lib.rs"), "traceback: thread panicked at src/lib.rs in nowhere", ROOMY),
        (_is_killed, "exit code -9", ROOMY),
        (lambda: time.sleep(60) or 0, "hangs in nowhere", TIGHT),
        (_hoards, "memory", replace(ROOMY, memory_bytes=256 << 20)),  # what is paged out meanwhile is not counted
        (_spins, "slow", replace(ROOMY, processor_s=0.3)),
    ],
)
def test_the_oracle_sees_what_is_wrong(
    work: Callable[[], int], kind: str | None, limits: Limits, tmp_path: Path
) -> None:
    outcome = run_forked(work, tmp_path, limits, ("--json",) if kind == "output is not JSON" else ())
    found = [problem.kind for problem in generic_problems(outcome, (0, 64, 65), (), limits)]
    assert found == ([] if kind is None else [kind]), outcome


def test_a_reason_in_the_output_is_enough_where_that_is_documented(tmp_path: Path) -> None:
    outcome = run_forked(says(b"part-00000 is damaged\n", code=65), tmp_path, ROOMY)
    assert generic_problems(outcome, (0, 65), (65,), ROOMY) == []


def test_what_a_command_changes_is_seen_and_made_good(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "run").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (corpus / "run" / name).write_text(name)
    place = Place(corpus, tmp_path / "play")
    apply_edits(place.root, [Edit("run/a", "place", {"becomes": "a pipe"})])
    place.begin()
    (place.root / "run" / "b").write_text("other")
    (place.root / "run" / "c").unlink()
    (place.root / "out").mkdir()
    (place.root.parent / "outside" / "new").touch()
    found = place.changes(["out*"])
    assert found == ["run/b was changed", "run/c was removed", "../outside/new was changed"]
    place.restore()
    assert {path.name: path.read_text() for path in (place.root / "run").iterdir()} == {"a": "a", "b": "b", "c": "c"}
    assert not (place.root / "out").exists()


SAMPLES = {
    "json": b'{"a": {"b": [1, 2.5, "x", null, true]}, "c": "d"}',
    "jsonl": b'{"a": 1}\n{"b": [1, 2]}\n',
    "yaml": b"a:\n  b: [1, 2]\nc: d\n",
    "manifest": b'{\n  "step": 3,\n  "files": {},\n  "checksum": "0123456789abcdef"\n}\n',
    "pickle": pickle.dumps({"a": [1, "x", 2.5]}),
    "safetensors": (60).to_bytes(8, "little")
    + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(60)
    + bytes(4),
    "protobuf": b"\x0a\x03abc\x10\x05\x1d\x00\x00\x80\x3f",
    "csv": b"step,loss\n1,2.5\n",
    "text": b"save",
    "lines": b"a\nb\n",
    "bytes": b"0123456789",
}


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), name=st.sampled_from(sorted(SAMPLES)))
def test_changes_can_be_kept_and_made_again(seed: int, name: str) -> None:
    choose = random.Random(seed)
    changes = [FORMATS[name].draw(choose, SAMPLES[name]) for _ in range(3)]
    made = FORMATS[name].apply(SAMPLES[name], changes)
    kept = json.loads(json.dumps(changes))
    assert FORMATS[name].apply(SAMPLES[name], kept) == made


def test_changes_change(tmp_path: Path) -> None:
    write_channel(tmp_path / "data")
    writer = ProvenanceWriter(tmp_path / "x.provenance")
    for line in range(1, 2000):
        writer.add(Provenance(f"raw/{line % 5}.jsonl", line, f"https://example.org/{line}"))
    writer.finish(7)
    own = {"idx": tmp_path / "data" / "part-00000.idx", "provenance": tmp_path / "x.provenance"}
    samples = {**SAMPLES, **{name: path.read_bytes() for name, path in own.items()}}
    for name, content in samples.items():
        choose = random.Random(name)
        made = [FORMATS[name].apply(content, [FORMATS[name].draw(choose, content)]) for _ in range(60)]
        assert len(set(made)) > 25, f"changes of {name} are all alike"


@pytest.mark.parametrize("becomes", sorted(PLACES))
def test_files_become_something_else(becomes: str, tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside" / "secret", tmp_path / "place"
    outside.parent.mkdir()
    outside.write_text("kept")
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    before = os.lstat(folder / "a.json")
    apply_edits(folder, [Edit("a.json", "place", {"becomes": becomes})])
    names = [path.name for path in folder.iterdir()]
    assert names != ["a.json"] or os.lstat(folder / "a.json") != before
    for again in sorted(PLACES):  # through a link, it would be another file that becomes four tebibytes
        apply_edits(folder, [Edit("a.json", "place", {"becomes": name}) for name in (becomes, again)])
    assert outside.read_text() == "kept"
    assert sum(path.lstat().st_blocks for path in folder.iterdir()) < 1000


@pytest.mark.parametrize("becomes", sorted(PLACES))
def test_a_file_is_dropped_where_one_became_something_else(becomes: str, tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside" / "secret", tmp_path / "place"
    outside.parent.mkdir()
    outside.write_text("kept")
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    change = {"source": "a.json", "as": "json", "changes": [], "becomes": None}
    drops = [Edit("signals/b.json", "drop", {**change, "becomes": each}) for each in (becomes, None)]
    apply_edits(folder, drops)
    dropped = folder / "signals" / "b.json"
    assert dropped.is_dir() if becomes == "a folder" else dropped.read_text() == "{}"
    assert outside.read_text() == "kept"
    assert {path.name for path in folder.iterdir()} == {"a.json", "signals"}


def test_absurd_values_are_spelt_as_bytes() -> None:
    choose = random.Random(1)
    values = [encoded(draw_value(choose, near, is_yaml=True)) for near in (None, 1, 0.5, "a", [1], {}) * 200]
    assert {b"NaN", b"1e999"} & set(values)
    assert max(map(len, values)) >= 100_000
    assert all(encoded(draw_key(choose)).startswith(b'"') for _ in range(20))


def test_a_trial_is_drawn_from_its_name(tmp_path: Path) -> None:
    corpus = tmp_path / "recordings"
    corpus.mkdir()
    (corpus / "labels.csv").write_text("curve,direction,start,end\ncurve,up,301,303\n")
    surface = surface_named("labels")
    drawn = [draw_input(TrialId("labels", 1, number), surface, corpus) for number in range(20)]
    assert drawn == [draw_input(TrialId("labels", 1, number), surface, corpus) for number in range(20)]
    assert len({str(each) for each in drawn}) > 15
    assert all(Input.from_fields(json.loads(json.dumps(each.to_fields()))) == each for each in drawn)
    assert TrialId.parse("run files:1:42") == TrialId("run files", 1, 42)
    assert str(TrialId("run files", 1, 42)) == "run files:1:42"


def test_a_finding_is_made_smaller_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guilty = Edit("labels.csv", "csv", {"line": 1, "cell": 2, "raw": [["[", 100_000]]})
    others = [draw_edit(random.Random(number), "labels.csv", "bytes", b"0123456789") for number in range(4)]
    given = Input("labels", "replay", (*others[:2], guilty, *others[2:]))

    def breaks(played: Input, *_: object) -> Result:
        raws = [edit.change["raw"] for edit in played.edits if "raw" in edit.change]
        problems = [Problem("planted", "too deep")] if raws and raws[0][0][1] >= 1000 else []
        return Result(Outcome((), 0, b"", b"", False, 0.0, 0.0, 0), problems)

    monkeypatch.setattr(trials, "play", breaks)
    small = smaller(given, "planted", surface_named("labels"), None)
    assert small.edits == (replace(guilty, change=guilty.change | {"raw": [["[", 1000]]}),)
    finding = Finding.of(Problem("planted", "too deep"), small, "labels:1:2")
    write_finding(tmp_path, finding)
    [kept] = kept_findings(tmp_path, "labels")
    assert kept.given == small
    assert kept.broke == "planted: too deep"


def test_reports_are_kept_and_printed() -> None:
    report = SurfaceReport("labels", next_number=3)
    report.count("replay", 0)
    report.count("replay", 65)
    report.count("replay", 65)
    report.found(Problem("slow", "12 s"), "labels:1:2", Input("labels", "replay", ()))
    assert str(Report([SurfaceReport.from_json(report.to_json())])).splitlines() == [
        "surface  inputs  accepted  refused  findings",
        "labels        3         1  2 × 65          1",
        "all           3         1  2 × 65          1",
        "labels, replay: slow (1 times) [--replay 'labels:1:2']",
        "    12 s",
    ]


def test_a_plain_reader_reads_what_the_product_writes(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, 0, token_dtype(1000))
    documents = [[number, 2 * number, 999][: number % 4] for number in range(1, 30)]
    for document in documents:
        writer.add_document(document)
    writer.finish()
    assert documents_of_part(tmp_path / "part-00000") == documents
    assert parts_of_channel(tmp_path) == [tmp_path / "part-00000"]


@pytest.mark.parametrize(
    ("text", "value", "fits"),
    [
        ("12", 12, True),
        ("1_000", 1000, True),
        ("1e-3", 0.001, True),
        ("012", 10, False),
        ("1:30", 90, False),
        ("yes", True, False),
        ("true", True, True),
        ("no", "no", True),
        ("no", False, False),
        ("~", None, True),
        ("x", None, False),
        ("data/en/", "data/en", True),
    ],
)
def test_a_setting_is_what_it_is_spelt_as(text: str, value: object, fits: bool) -> None:
    assert _means(text, value) is fits
