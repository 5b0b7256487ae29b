"""Models with fp8 weights in blocks become plain ones: by the published formula, number by number."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import conversion_jobs
import pytest
import torch
from conversion_jobs import no_display
from hugging_face_models import VARIANTS, weights_of, write_model, write_tokenizer
from pool import Pool
from safetensors.torch import save_file

from checkpoint_tools.dequantize import dequantize
from checkpoint_tools.families.config_json import admit, family_of
from harness.cli import run
from harness.errors import EXIT_BAD_DATA, CheckpointError, UsageError

SETTINGS = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
LARGEST = 448.0
"""The largest number in e4m3."""


def quantized(weight: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """DeepSeek's: each block over its largest value in fp8's range, and that number beside it."""
    rows, columns = weight.shape
    scales = torch.empty(-(-rows // size), -(-columns // size))
    numbers = torch.empty_like(weight, dtype=torch.float8_e4m3fn)
    for r in range(scales.size(0)):
        for c in range(scales.size(1)):
            place = slice(r * size, (r + 1) * size), slice(c * size, (c + 1) * size)
            scales[r, c] = weight[place].abs().max() / LARGEST
            numbers[place] = (weight[place] / scales[r, c]).to(torch.float8_e4m3fn)
    return numbers, scales


def plain(numbers: torch.Tensor, scales: torch.Tensor, size: int) -> torch.Tensor:
    result = torch.empty(numbers.shape)
    for r in range(numbers.size(0)):
        for c in range(numbers.size(1)):
            result[r, c] = numbers[r, c].float() * scales[r // size, c // size]
    return result


def folder_of(path: Path, tensors: Mapping[str, torch.Tensor], **settings: Any) -> Path:
    path.mkdir()
    save_file(dict(tensors), path / "model.safetensors", metadata={"format": "pt"})
    fields = {"model_type": "deepseek_v3", "torch_dtype": "bfloat16", "quantization_config": {**SETTINGS, **settings}}
    (path / "config.json").write_text(json.dumps(fields))
    return path


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """A matrix of 2 by 2 blocks, three of which are not whole, and a norm."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(130, 150, generator=generator) * torch.rand(130, 1, generator=generator)
    numbers, scales = quantized(weight, 128)
    norm = torch.rand(7, generator=generator).bfloat16()
    return {"a.weight": numbers, "a.weight_scale_inv": scales, "norm.weight": norm}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_weight_is_its_number_times_that_of_its_block(
    tensors: dict[str, torch.Tensor], dtype: torch.dtype, tmp_path: Path
) -> None:
    given = folder_of(tmp_path / "given", tensors)
    write_tokenizer(given)
    done = dequantize(given, tmp_path / "out", no_display, dtype=dtype)
    assert (done.num_tensors, done.num_dequantized, done.kept_bytes) == (2, 1, 0)
    found = weights_of(tmp_path / "out")
    assert set(found) == {"a.weight", "norm.weight"}
    assert torch.equal(found["a.weight"], plain(tensors["a.weight"], tensors["a.weight_scale_inv"], 128).to(dtype))
    assert torch.equal(found["norm.weight"], tensors["norm.weight"])
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert fields == {"model_type": "deepseek_v3", "torch_dtype": str(dtype).removeprefix("torch.")}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (given / name).read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_scales_may_lie_in_another_file(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    given = folder_of(tmp_path / "given", tensors)
    (given / "model.safetensors").unlink()
    files = {"a.weight": "model-1.safetensors", "a.weight_scale_inv": "model-2.safetensors"}
    files["norm.weight"] = "model-2.safetensors"
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, given / file)
    (given / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    dequantize(given, tmp_path / "out", no_display)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: files[name] for name in ("a.weight", "norm.weight")}
    assert index["metadata"] == {"total_size": 130 * 150 * 2 + 7 * 2}
    assert set(weights_of(tmp_path / "out")) == {"a.weight", "norm.weight"}


def test_an_interrupted_one_goes_on(
    tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = folder_of(tmp_path / "given", tensors)
    with monkeypatch.context() as patch:
        patch.setattr("checkpoint_tools.output_folder.publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            dequantize(given, tmp_path / "out", no_display)
    done = dequantize(given, tmp_path / "out", no_display)
    assert done.kept_bytes == done.num_bytes == 130 * 150 * 2 + 7 * 2


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"quant_method": "gptq"}, 'quant_method is "gptq", known is fp8'),
        ({"fmt": "e5m2"}, 'fmt is "e5m2", known is e4m3'),
        ({"weight_block_size": None}, "weight_block_size is null, known are two numbers, such as [128, 128]"),
        ({"weight_block_size": [128, 0]}, "weight_block_size is [128, 0], known are two numbers"),
        ({"weight_block_size": [64, 64]}, "a.weight_scale_inv is F32 [2, 2], wanted is F32 [3, 3]"),
    ],
)
def test_another_quantization_is_refused(
    settings: dict[str, Any], problem: str, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    given = folder_of(tmp_path / "given", tensors, **settings)
    with pytest.raises(CheckpointError, match=re.escape(problem)):
        dequantize(given, tmp_path / "out", no_display)
    assert not list(tmp_path.glob("out*"))


FP8 = torch.zeros(4, 4).to(torch.float8_e4m3fn)
SCALES = torch.ones(1, 1)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"a.weight": FP8}, "a.weight is F8_E4M3 [4, 4] without a.weight_scale_inv"),
        ({"a.bias": FP8}, "a.bias is F8_E4M3 [4, 4] without a.bias.weight_scale_inv"),
        ({"a.weight": FP8[0], "a.weight_scale_inv": SCALES}, "a.weight is F8_E4M3 [4] without"),
        ({"a.weight": FP8, "a.weight_scale_inv": SCALES.half()}, "a.weight_scale_inv is F16 [1, 1], wanted is F32"),
        ({"a.weight": SCALES, "a.weight_scale_inv": SCALES + 1}, "a.weight_scale_inv belongs to no tensor in F8_E4M3"),
        ({"a.weight": torch.zeros(1, dtype=torch.int8)}, "a.weight is I8, known are F32, BF16, F16, F8_E4M3"),
        ({"a.weight": SCALES}, "holds no tensor in F8_E4M3: remove quantization_config from its config.json"),
        (
            {"a.weight": FP8, "a.weight_scale_inv": SCALES * torch.nan},
            "a.weight holds nan: this is no model to go on with",
        ),
    ],
)
def test_tensors_that_do_not_fit_together_are_named(
    wrong: dict[str, torch.Tensor], problem: str, tmp_path: Path
) -> None:
    given = folder_of(tmp_path / "given", wrong)
    with pytest.raises(CheckpointError, match=re.escape(problem)):
        dequantize(given, tmp_path / "out", no_display)
    assert not (tmp_path / "out").exists()


def test_a_plain_model_and_a_taken_place_are_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    given = folder_of(tmp_path / "given", tensors)
    with pytest.raises(UsageError, match="exists"):
        dequantize(given, tmp_path / "given", no_display)
    (given / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no quantization_config: this model is not quantized"):
        dequantize(given, tmp_path / "out", no_display)


def test_what_reads_models_names_the_command(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    fields = json.loads((folder_of(tmp_path / "given", tensors) / "config.json").read_text())
    with pytest.raises(CheckpointError, match="quantization_config: its weights are quantized.*convert dequantize"):
        admit(fields, family_of(fields))


def test_the_command(tensors: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = folder_of(tmp_path / "given", tensors)
    assert run(["convert", "dequantize", str(given), str(tmp_path / "out"), "--dtype", "fp32"]) == 0
    assert "2 tensors, 1 of them dequantized, 0.000 GB" in capsys.readouterr().out
    assert run(["convert", "dequantize", str(tmp_path / "out"), str(tmp_path / "again")]) == EXIT_BAD_DATA


def test_a_quantized_deepseek_v3_becomes_the_start_of_a_run(pool: Pool, tmp_path: Path) -> None:
    [variant] = [variant for variant in VARIANTS if variant.name == "deepseek-v3"]
    given = write_model(tmp_path / "given", variant, dtype=torch.bfloat16)
    weights: dict[str, torch.Tensor] = {}
    for name, weight in weights_of(given).items():
        weights[name] = weight
        if weight.dim() == 2 and "norm" not in name and "embed" not in name and "lm_head" not in name:
            weights[name], weights[f"{name}_scale_inv"] = quantized(weight.float(), 16)
    save_file(weights, given / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((given / "config.json").read_text())
    fields["quantization_config"] = {**SETTINGS, "weight_block_size": [16, 16]}
    (given / "config.json").write_text(json.dumps(fields))
    dequantize(given, tmp_path / "plain", no_display)
    [told] = pool.run(conversion_jobs.from_hf, 1, tmp_path / "plain", tmp_path / "run", {})
    assert told.startswith("proven: logits through megatron-core and transformers (all layers, fp32)"), told
