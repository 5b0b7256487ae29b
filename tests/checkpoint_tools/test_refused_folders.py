"""A folder that is not the model of its config.json: its conversion and every comparison refuse it alike."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face_models import Variant, weights_of, write_internlm2, write_model
from safetensors.torch import save_file

from harness.cli import run
from harness.errors import EXIT_BAD_DATA, EXIT_USAGE

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
K = "model.layers.0.self_attn.k_proj.weight"
WQKV = "model.layers.0.attention.wqkv.weight"
Told = Callable[[], str]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("refused") / "given", Variant("plain", "llama", {}))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(
        tmp_path_factory.mktemp("refused") / "given", Variant("tied", "llama", {"tie_word_embeddings": True})
    )


@pytest.fixture(scope="module")
def internlm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_internlm2(tmp_path_factory.mktemp("refused") / "given")


def with_tensors(folder: Path, out: Path, **changes: torch.Tensor) -> Path:
    """A copy of a model with other tensors."""
    shutil.copytree(folder, out)
    weights = {**weights_of(folder), **{name: tensor.contiguous() for name, tensor in changes.items()}}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def require_refused(wrong: Path, right: Path, tmp_path: Path, problem: str, capsys: Any) -> None:
    """All three verbs leave with 65, and name the problem; the comparisons in either order."""
    for arguments in (
        ["convert", "from-hf", wrong, tmp_path / "out"],
        ["convert", "check", right, wrong],
        ["convert", "check", wrong, wrong],
        ["checkpoint", "diff", wrong, right],
    ):
        capsys.readouterr()
        code = run([str(part) for part in arguments])
        told = capsys.readouterr().err
        assert code == EXIT_BAD_DATA, (arguments, code, told)
        assert problem in told, (arguments, told)
        assert "Traceback" not in told
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    "names",
    [
        ["model.layers.0.self_attn.q_proj.bias"],
        ["foo.bar"],
        ["model.layers.2.input_layernorm.weight", "model.layers.2.mlp.up_proj.weight"],
    ],
)
def test_a_tensor_that_has_no_place_is_refused_by_all(
    plain: Path, tmp_path: Path, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = with_tensors(plain, tmp_path / "wrong", **{name: torch.ones(48) for name in names})
    require_refused(wrong, plain, tmp_path, f"{names[0]} has no place in this model", capsys)


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        (K, torch.ones(23, 48), "[23, 48], wanted is [24, 48]"),
        (K, torch.ones(24 * 48), "[1152], wanted is [24, 48]"),
        (K, torch.tensor(1.0), "[], wanted is [24, 48]"),
        (K, torch.ones(48, 24), "[48, 24], wanted is [24, 48]"),
        (EMBEDDING, torch.ones(133, 48), "[133, 48], wanted is [131, 48]"),
        (EMBEDDING, torch.ones(130, 48), "[130, 48], wanted is [131, 48]"),
        (EMBEDDING, torch.ones(256, 48), "[256, 48], wanted is [131, 48]"),
        (OUTPUT, torch.ones(131, 49), "[131, 49], wanted is [131, 48]"),
        ("model.norm.weight", torch.ones(1), "[1], wanted is [48]"),
        ("model.layers.1.mlp.up_proj.weight", torch.ones(39, 48), "[39, 48], wanted is [40, 48]"),
    ],
)
def test_other_shapes_are_refused_by_all(
    plain: Path, tmp_path: Path, name: str, tensor: torch.Tensor, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = with_tensors(plain, tmp_path / "wrong", **{name: tensor})
    require_refused(wrong, plain, tmp_path, f"{name}: {problem}", capsys)


@pytest.mark.parametrize("shape", [(100, 48), (96, 49), (96,), (), (48, 96)])
def test_other_shapes_of_a_fused_projection_are_refused_by_all(
    internlm2: Path, tmp_path: Path, shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = with_tensors(internlm2, tmp_path / "wrong", **{WQKV: torch.ones(shape)})
    require_refused(wrong, internlm2, tmp_path, f"{WQKV}: {list(shape)}, wanted is [96, 48]", capsys)


@pytest.mark.parametrize(
    ("dtype", "problem"),
    [
        (torch.float8_e4m3fn, "is F8_E4M3; weights must be F32, BF16, F16"),
        (torch.int32, "is I32; weights must be"),
        (torch.bfloat16, "is bfloat16, but both belong to one tensor of a checkpoint"),
    ],
)
def test_other_formats_in_a_fused_projection_are_refused_by_all(
    plain: Path, tmp_path: Path, dtype: torch.dtype, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = with_tensors(plain, tmp_path / "wrong", **{K: weights_of(plain)[K].to(dtype)})
    require_refused(wrong, plain, tmp_path, f"{K} {problem}", capsys)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (torch.zeros(131, 48), "but lm_head.weight holds other numbers than model.embed_tokens.weight"),
        (torch.zeros(131, 48).to(torch.float8_e4m3fn), "lm_head.weight is F8_E4M3; weights must be"),
        (torch.zeros(130, 48), "but lm_head.weight holds the shape [130, 48], not [131, 48] as"),
        (torch.tensor(0.0), "but lm_head.weight holds the shape [], not [131, 48] as"),
    ],
)
def test_an_output_layer_beside_a_tied_embedding_is_refused_by_all(
    tied: Path, tmp_path: Path, output: torch.Tensor, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    require_refused(with_tensors(tied, tmp_path / "wrong", **{OUTPUT: output}), tied, tmp_path, problem, capsys)


def test_an_output_layer_with_the_same_numbers_in_another_format_is_the_embedding(
    tied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounded = weights_of(tied)[EMBEDDING].bfloat16()
    for number, (embedding, output) in enumerate(((rounded.float(), rounded), (rounded, rounded.float()))):
        folder = with_tensors(tied, tmp_path / f"same{number}", **{EMBEDDING: embedding, OUTPUT: output})
        assert run(["convert", "check", str(folder), str(folder)]) == 0, capsys.readouterr().err


def test_a_pointer_in_place_of_a_file_is_told(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        folder = shutil.copytree(plain, tmp_path / name.replace(".", "-"))
        (folder / name).write_bytes(pointer)
        assert run(["convert", "from-hf", str(folder), str(tmp_path / "out")]) == EXIT_BAD_DATA
        told = capsys.readouterr().err
        assert f"{folder / name} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`" in told
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_in_place_of_the_folder_is_told(
    plain: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(plain / name)
    for arguments in (["convert", "from-hf", file, str(tmp_path / "out")], ["convert", "check", file, str(plain)]):
        assert run(arguments) == EXIT_USAGE
        assert f"{file} is a file. Name the model's folder" in capsys.readouterr().err


def test_a_folder_whose_name_is_no_text_is_not_called_damaged(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = os.fsdecode(os.fsencode(str(tmp_path)) + b"/m\xff")
    shutil.copytree(plain, folder)
    for arguments in (
        ["convert", "from-hf", folder, str(tmp_path / "out")],
        ["checkpoint", "diff", folder, str(plain)],
    ):
        assert run(arguments) == EXIT_USAGE
        told = capsys.readouterr().err
        assert "is not UTF-8" in told
        assert "damaged" not in told


def test_a_gguf_file_is_no_pickle(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(plain, tmp_path / "gguf")
    (folder / "model.safetensors").rename(folder / "model.gguf")
    assert run(["convert", "from-hf", str(folder), str(tmp_path / "out")]) == EXIT_BAD_DATA
    told = capsys.readouterr().err
    assert "model.gguf is a GGUF file of llama.cpp, which is not read" in told
    assert "is a pickle" not in told


@pytest.mark.parametrize("size", [2**24 + 1, 2**31 - 1])
def test_a_vocabulary_beyond_any_models_is_refused(
    plain: Path, tmp_path: Path, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", "from-hf", str(plain), str(tmp_path / "out"), "--vocab-size", str(size)]
    assert run(arguments) == EXIT_USAGE
    assert f"--vocab-size {size} is larger than any model's: at most 16,777,216 rows" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_the_default_of_a_class_is_named_as_one(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(plain, tmp_path / "internlm2")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "model_type": "internlm2"}))
    assert run(["convert", "from-hf", str(folder), str(tmp_path / "out")]) == EXIT_BAD_DATA
    told = capsys.readouterr().err
    assert "bias: missing, so that transformers takes its default, true, known is false" in told
