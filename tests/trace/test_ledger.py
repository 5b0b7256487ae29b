from __future__ import annotations

import json

from harness.trace.findings import Collective, HostWait, Made, Part, Place, StageFindings
from harness.trace.ledger import Ledger
from harness.trace.recorder import Recorder

PLACE = Place(file="harness/model/norm.py", line=3, function="RMSNorm.forward")


def made(part: Part = "activations", shape: tuple[int, ...] = (4,)) -> Made:
    return Made(part=part, place=PLACE, operator="empty", shape=shape, dtype="bfloat16")


def test_the_peak_is_where_most_is_allocated() -> None:
    ledger = Ledger()
    ledger.add(1, 1024, made("weights"))
    ledger.begin()
    ledger.add(2, 512, made())
    ledger.add(3, 1024, made())
    ledger.drop(2)
    ledger.add(4, 512, made("temporary"))
    ledger.drop(3)
    ledger.drop(4)
    peak = ledger.peak()
    assert peak.num_bytes == 2560
    assert [(held.made.part, held.count, held.num_bytes) for held in peak.held] == [
        ("activations", 2, 1536),
        ("weights", 1, 1024),
    ]


def test_bytes_are_those_of_whole_blocks() -> None:
    ledger = Ledger()
    ledger.begin()
    for key, num_bytes in enumerate((1, 512, 513, 0)):
        ledger.add(key, num_bytes, made())
    assert ledger.peak().num_bytes == 512 + 512 + 1024
    assert not ledger.knows(3)


def test_a_key_may_come_again() -> None:
    ledger = Ledger()
    ledger.begin()
    ledger.add(1, 512, made())
    ledger.drop(1)
    ledger.add(1, 1024, made())
    ledger.drop(7)  # never seen
    assert ledger.peak().num_bytes == 1024
    assert [(each.count, each.num_bytes) for each in ledger.made()] == [(2, 1536)]


def test_what_is_allocated_before_counts_and_is_not_made() -> None:
    ledger = Ledger()
    ledger.add(1, 512, made())
    ledger.add(2, 512, made())
    ledger.assign({1, 9}, "weights")
    ledger.begin()
    ledger.drop(2)
    assert ledger.peak().num_bytes == 1024
    assert {held.made.part for held in ledger.peak().held} == {"weights", "activations"}
    assert ledger.made() == ()
    assert ledger.keys() == {1}


def test_findings_pass_as_json() -> None:
    recorder = Recorder()
    recorder.host_waits("item", PLACE)
    recorder.begin()
    recorder.ledger.add(1, 100, made(shape=(2, 3)))
    recorder.host_waits("tolist", PLACE)
    recorder.host_waits("tolist", PLACE)
    recorder.collective("all-reduce", "tensor", num_ranks=2, num_bytes=10)
    recorder.collective("all-reduce", "tensor", num_ranks=2, num_bytes=20)
    findings = recorder.findings(pipeline_rank=1, num_microbatches=4)
    assert findings.host_waits == (HostWait(kind="tolist", place=PLACE, count=2),)
    assert findings.collectives == (Collective(kind="all-reduce", group="tensor", num_ranks=2, count=2, num_bytes=30),)
    assert findings.bytes_by_part["activations"] == findings.peak_bytes == 512
    assert findings.num_host_waits == 2
    assert StageFindings.from_json(json.loads(json.dumps(findings.as_json()))) == findings
