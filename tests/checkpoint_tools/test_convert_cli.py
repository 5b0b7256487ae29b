"""`harness convert` on the command line: what is refused before anything is converted, and what `check` says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hugging_face_models import VARIANTS, write_model
from safetensors.torch import load_file, save_file

from harness.cli import run
from harness.errors import EXIT_BAD_DATA, EXIT_USAGE


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (
            ["to-hf", ".", "b", "--max-shard-size", "5"],
            EXIT_USAGE,
            "--max-shard-size '5' is not a size. Write a number",
        ),
        (["to-hf", ".", "b", "--dtype", "fp8"], EXIT_USAGE, "'fp8' is not one of 'fp32', 'bf16', 'fp16'"),
        (["to-hf", "a", "b"], EXIT_USAGE, "'CHECKPOINT': Path 'a' does not exist"),
        (["from-hf", "a", "b"], EXIT_USAGE, "'MODEL': Path 'a' does not exist"),
        (["check", ".", "b"], EXIT_USAGE, "'B': Path 'b' does not exist"),
        (["average", "a", ".", "b"], EXIT_USAGE, "'CHECKPOINTS...': Path 'a' does not exist"),
        (["to-hf", ".", "b"], EXIT_BAD_DATA, "Checkpoint . cannot be used:\n  manifest.json is missing"),
        (["from-hf", ".", "b"], EXIT_BAD_DATA, "config.json cannot be read: No such file"),
        (["from-hf", ".", "b", "--expand-layers", "1;2"], EXIT_USAGE, "--expand-layers '1;2' is not a list of layers"),
        (["check", ".", "."], EXIT_BAD_DATA, ". is not a model folder: it has neither manifest.json nor config.json"),
        (["to-hf", ".", "b", "--without-tokenizer", "--tokenizer", "x"], EXIT_USAGE, "contradict each other"),
        (["to-hf", ".", "b", "--without-tokenizer", "--sample", "x"], EXIT_USAGE, "--sample needs the tokenizer"),
        (["to-hf", ".", "b", "--sample", "a\udcff"], EXIT_USAGE, "is not UTF-8. Give text as UTF-8"),
        (["average", ".", "b"], EXIT_USAGE, "A mean needs at least two checkpoints"),
    ],
)
def test_what_is_refused_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["convert", *arguments]) == code
    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--expand-layers", "2"], "--expand-layers 2: name each layer once, by its number from 0 to 1"),
        (["--expand-layers", "1,1"], "--expand-layers 1,1: name each layer once"),
        (["--vocab-size", "100"], "--vocab-size 100 is smaller than the model's 131: rows are only added"),
    ],
)
def test_a_growth_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    given = write_model(tmp_path / "given", VARIANTS[0])
    assert run(["convert", "from-hf", str(given), str(tmp_path / "out"), *arguments]) == EXIT_USAGE
    assert problem in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_a_tensor_too_few_or_too_many_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = write_model(tmp_path / "given", VARIANTS[0])
    weights = load_file(given / "model.safetensors")
    weights["model.extra.weight"] = weights.pop("model.norm.weight")
    save_file(weights, given / "model.safetensors", metadata={"format": "pt"})
    assert run(["convert", "from-hf", str(given), str(tmp_path / "out")]) == EXIT_BAD_DATA
    told = capsys.readouterr().err
    assert (
        "does not hold the tensors of its model:\n  model.norm.weight is missing\n  model.extra.weight has no" in told
    )


def test_check_names_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (write_model(tmp_path / name, VARIANTS[0]) for name in ("one", "other"))
    assert run(["convert", "check", str(one), str(other)]) == 0
    assert "15 tensors compared, 0 differences" in capsys.readouterr().out
    weights = load_file(other / "model.safetensors")
    weights["model.layers.1.self_attn.k_proj.weight"][0, 0] += 0.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert run(["convert", "check", str(one), str(other)]) == EXIT_BAD_DATA
    told = capsys.readouterr().out
    assert "decoder.layers.1.self_attention.linear_qkv.weight: largest difference 0.5\n" in told
    assert run(["convert", "check", str(one), str(other), "--tolerance", "0.6"]) == 0


def flipped(folder: Path, name: str) -> None:
    """Flips the last bit of one number of a tensor."""
    weights = load_file(folder / "model.safetensors")
    words = torch.int16 if weights[name].element_size() == 2 else torch.int32
    weights[name].view(words).view(-1)[7] ^= 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_check_takes_what_is_equal_after_rounding_for_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: torch.dtype
) -> None:
    one = write_model(tmp_path / "one", VARIANTS[0])
    other = write_model(tmp_path / "other", VARIANTS[0], dtype=dtype)
    capsys.readouterr()
    name = str(dtype).removeprefix("torch.")
    for pair in ((one, other), (other, one)):
        assert run(["convert", "check", *map(str, pair)]) == 0
        said = f"15 tensors compared, 15 tensors equal after rounding to {name}, 0 differences\n"
        assert capsys.readouterr().out == said
    flipped(other, "model.layers.1.self_attn.k_proj.weight")
    assert run(["convert", "check", str(one), str(other)]) == EXIT_BAD_DATA
    told = capsys.readouterr().out
    assert told.startswith(
        f"decoder.layers.1.self_attention.linear_qkv.weight: formats float32 and {name}, after rounding to {name} 1 of "
        "4,608 numbers differ, by up to "
    )
    assert told.endswith(f"15 tensors compared, 14 tensors equal after rounding to {name}, 1 differences\n")


def test_check_tells_formats_of_which_neither_holds_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_model(tmp_path / "one", VARIANTS[0], dtype=torch.float16)
    other = write_model(tmp_path / "other", VARIANTS[0], dtype=torch.bfloat16)
    assert run(["convert", "check", str(one), str(other)]) == EXIT_BAD_DATA
    assert "formats float16 and bfloat16, largest difference " in capsys.readouterr().out
