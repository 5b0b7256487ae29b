"""Conversions of models whose `config.json` other people's tools wrote: what is told, and what comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import conversion_jobs
import pytest
import torch
from hugging_face_models import VARIANTS, VOCAB_SIZE, Variant, weights_of, write_model, write_tokenizer
from pool import Pool
from safetensors.torch import save_file

from harness.errors import EXIT_BAD_DATA


def _with_hidden_size(name: str, weight: torch.Tensor, size: int) -> torch.Tensor:
    is_first = weight.dim() == 1 or "o_proj" in name or "down_proj" in name
    return torch.ones((size, *weight.shape[1:]) if is_first else (weight.shape[0], size))


def test_a_conversion_tells_what_it_passes_over_and_one_line_of_what_transformers_refuses(
    pool: Pool, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "given", Variant("given", "llama", {}))
    path = folder / "config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "is_llama_config": True, "quantization_config": None, "bos_token_id": 99999}))
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "from-hf", str(folder), str(tmp_path / "run")])
    assert (left.code, left.err) == (
        0,
        "warning: its config.json has keys that change nothing, passed over: is_llama_config, quantization_config\n",
    )
    path.write_text(json.dumps({**said, "hidden_size": 50, "head_dim": 12}))
    # The tensors are those of such a model.
    wider = {name: _with_hidden_size(name, tensor, 50) for name, tensor in weights_of(folder).items()}
    save_file(wider, folder / "model.safetensors", metadata={"format": "pt"})
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "from-hf", str(folder), str(tmp_path / "no")])
    assert left.code == EXIT_BAD_DATA
    assert f"transformers refuses {folder}: " in left.err
    assert "The hidden size (50) is not a multiple of the number of attention heads (4)." in left.err
    assert len(left.err.splitlines()) == 1


IDS = {"bos_token_id": 98765, "eos_token_id": [98766, 98767], "pad_token_id": -1}
"""Those of a large vocabulary, and the `pad_token_id` of some published models."""
SPEAKING = (
    "llama-gqa",
    "qwen2-tied",
    "qwen3-moe",
    "deepseek-v2-lite",
    "gemma-2",
    "gemma-3",
    "gpt-2",
    "olmo2",
    "mixtral",
)


def with_ids(folder: Path, variant: Variant) -> Path:
    """A model with a tokenizer, and ids of special tokens that are beyond its vocabulary."""
    write_model(folder, variant._replace(changes={**variant.changes, "vocab_size": VOCAB_SIZE}))
    write_tokenizer(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **IDS}))
    (folder / "generation_config.json").write_text(json.dumps({**IDS, "do_sample": True, "top_p": 0.8}))
    return folder


def verbs(folder: Path) -> list[list[str]]:
    """The commands that read or write a model with the help of transformers, one after the other."""
    given, run, out = (str(folder / name) for name in ("given", "run", "out"))
    checkpoint = f"{run}/checkpoints/step_0000000"
    return [
        ["from-hf", given, run],
        ["average", checkpoint, checkpoint, str(folder / "mean")],
        ["to-hf", checkpoint, out, "--dtype", "bf16", "--sample", "the quick"],
        ["check", checkpoint, out],
    ]


@pytest.mark.parametrize("name", SPEAKING)
def test_transformers_says_nothing_of_its_own(pool: Pool, tmp_path: Path, name: str) -> None:
    """A proof builds small models, for which the ids of special tokens would be too large."""
    with_ids(tmp_path / "given", next(variant for variant in VARIANTS if variant.name == name))
    for arguments in verbs(tmp_path):
        assert pool.run(conversion_jobs.warnings_of_transformers, 1, ["convert", *arguments]) == [[]]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == [98766, 98767]


def test_transformers_says_what_is_wrong_with_a_model(pool: Pool, tmp_path: Path) -> None:
    """Only what means nothing is held back: a stretching that does not fit the lengths of the model may be wrong."""
    with_ids(tmp_path / "given", next(variant for variant in VARIANTS if variant.name == "llama-yarn"))
    arguments = ["convert", "from-hf", str(tmp_path / "given"), str(tmp_path / "run")]
    [said] = pool.run(conversion_jobs.warnings_of_transformers, 1, arguments)
    assert len(said) == 1
    assert "explicitly set RoPE scaling factor (config.rope_parameters['factor'] = 4.0) does not match" in said[0]


def test_a_new_process_writes_nothing_else_to_its_error_output(tmp_path: Path) -> None:
    """Neither transformers, nor torch and Megatron, which warn as they are loaded."""
    with_ids(tmp_path / "given", next(variant for variant in VARIANTS if variant.name == "qwen3-moe"))
    from_hf, _, to_hf, _ = verbs(tmp_path)
    for arguments in (from_hf, to_hf):
        command = [sys.executable, "-m", "harness.cli", "convert", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        assert (done.returncode, done.stderr) == (0, ""), arguments


def test_settings_of_generation_that_are_damaged_do_not_reach_the_judge(pool: Pool, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "given", Variant("given", "llama", {}))
    (folder / "generation_config.json").write_text("[1]")
    [told] = pool.run(conversion_jobs.from_hf, 1, folder, tmp_path / "run", {})
    assert told.startswith("proven"), told


def test_whole_floats_come_back_as_whole_numbers(pool: Pool, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "given", Variant("given", "llama", {}))
    path = folder / "config.json"
    fields = {"max_position_embeddings": 4096.0, "eos_token_id": [2.0, 3], "bos_token_id": 1.0}
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    [told] = pool.run(conversion_jobs.from_hf, 1, folder, tmp_path / "run", {})
    assert told.startswith("proven"), told
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000000"
    [told] = pool.run(conversion_jobs.to_hf, 1, checkpoint, tmp_path / "back", {"without_tokenizer": True})
    assert told.startswith("proven"), told
    written = (tmp_path / "back" / "config.json").read_text()
    assert '"max_position_embeddings": 4096,' in written
    assert {key: json.loads(written)[key] for key in ("eos_token_id", "bos_token_id")} == {
        "eos_token_id": [2, 3],
        "bos_token_id": 1,
    }
    assert ".0" not in json.dumps([json.loads(written)[key] for key in fields])
