"""`harness checkpoint inspect` and `diff`, on checkpoints that torch writes without any process group."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from checkpoint_samples import sample_manifest, store_in

from harness import cli
from harness.checkpoint.objections import objection_to

EQUAL = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.tensor([1.0, math.nan, math.inf])}


def checkpoint(folder: Path, tensors: dict[str, torch.Tensor], step: int = 10) -> Path:
    store = store_in(folder)
    partial = store.begin(step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(dict(tensors), checkpoint_id=partial, no_dist=True)
    (partial / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    return store.publish(partial, sample_manifest(step))


def diff(*arguments: object) -> int:
    return cli.run(["checkpoint", "diff", *map(str, arguments)])


def test_inspect_names_every_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(tmp_path, EQUAL)
    assert cli.run(["checkpoint", "inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "step 10, attempt 0, clean, from step 5 of attempt 0"
    assert "layout: tensor 2, pipeline 1, virtual_pipeline 1, context 1, data 2, expert 1, expert_tensor 1" in lines
    assert "2 tensors, 60 B" in lines
    assert lines[-1].split() == ["a.weight", "[3,", "4]", "float32", "1", "48", "B"]


def test_inspect_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["checkpoint", "inspect", str(checkpoint(tmp_path, EQUAL)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tensors"]["a.bias"] == {"shape": [3], "dtype": "float32", "num_chunks": 1, "bytes": 12}
    assert found["cursor"] == sample_manifest(10).cursor


def test_equal_in_every_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [checkpoint(tmp_path / name, EQUAL) for name in ("one", "other")]
    assert diff(*paths, "--deep") == 0
    assert capsys.readouterr().out == "2 tensors are equal in every bit, 0 differ\n"


CASES: dict[str, tuple[torch.Tensor, torch.Tensor, str, float | None, float | None]] = {
    "a number": (torch.zeros(4), torch.tensor([0.0, 0.0, -2.0, 1.0]), "different", 2.0, 0.75),
    "a sign of zero": (torch.zeros(2), torch.tensor([0.0, -0.0]), "different", 0.0, 0.0),
    "a NaN": (torch.zeros(2), torch.tensor([0.0, math.nan]), "different", None, None),
    "one bit": (torch.ones(1), torch.nextafter(torch.ones(1), torch.tensor(2.0)), "different", 2.0**-23, 2.0**-23),
    "shape": (torch.zeros(2), torch.zeros(3), "other shape", None, None),
    "format": (torch.ones(2), torch.ones(2, dtype=torch.bfloat16), "other format", 0.0, 0.0),
}


@pytest.mark.parametrize(("a", "b", "verdict", "largest", "mean"), CASES.values(), ids=CASES)
def test_differences(
    a: torch.Tensor,
    b: torch.Tensor,
    verdict: str,
    largest: float | None,
    mean: float | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [checkpoint(tmp_path / "one", EQUAL | {"x": a}), checkpoint(tmp_path / "other", EQUAL | {"x": b})]
    assert diff(*paths, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert {name: item["verdict"] for name, item in found.items()} == {
        "a.bias": "equal",
        "a.weight": "equal",
        "x": verdict,
    }
    assert (found["x"]["largest"], found["x"]["mean"]) == (largest, mean)


def test_a_missing_tensor_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [checkpoint(tmp_path / "one", EQUAL), checkpoint(tmp_path / "other", {"a.bias": EQUAL["a.bias"]})]
    assert diff(*paths) == 1
    assert "a.weight  only in first" in capsys.readouterr().out
    assert diff(*reversed(paths)) == 1
    assert "a.weight  only in second" in capsys.readouterr().out


def test_an_index_that_names_a_function_is_passed_over_whatever_its_manifest_says(tmp_path: Path) -> None:
    """Whoever can write the files can write a manifest that fits them; what is unpickled is looked at as well."""
    older = checkpoint(tmp_path, EQUAL, step=10)
    store = store_in(tmp_path)
    partial = store.begin(20)
    (partial / ".metadata").write_bytes(b"cos\nsystem\n(S'touch /nowhere'\ntR.")
    hostile = store.publish(partial, sample_manifest(20))
    assert store.choose("auto", deep=True).entry.path == hostile  # type: ignore[union-attr]
    choice = store.choose("auto", deep=True, inspect=objection_to)
    assert choice.entry is not None
    assert choice.entry.path == older
    assert choice.passed_over == (
        (
            hostile,
            "its .metadata names os.system, which is not part of a checkpoint's index. Nothing of it was run. "
            "Do not use this checkpoint before you know who wrote it",
        ),
    )


def test_an_altered_index_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(tmp_path, EQUAL)
    content = (path / ".metadata").read_bytes()
    (path / ".metadata").write_bytes(content.replace(b"a.bias", b"a.bios"))
    assert cli.run(["checkpoint", "inspect", str(path)]) == 65
    assert "'.metadata' was altered" in capsys.readouterr().err
