"""Each line of "What *proven* covers" in docs/convert.md: something breaks just that, and the proof says so."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import conversion_jobs
import pytest
import torch
from conversion_bugs import UNSEEN_ROW
from hugging_face_models import Variant, assert_same_bits, weights_of, write_model
from pool import Pool
from safetensors.torch import save_file

from checkpoint_tools.growth import Growth
from checkpoint_tools.prompts import longest_text, make_prompts
from harness.config.model import ModelConfig
from harness.errors import EXIT_BAD_DATA, CheckpointError

VOCAB_SIZE = 4000
WIDE = Variant("wide", "llama", {"vocab_size": VOCAB_SIZE, "num_key_value_heads": 4, "max_position_embeddings": 131072})
NOT_THE_SAME = "CheckpointError: The converted model is not the same model: "


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of which prompts see few rows."""
    return write_model(tmp_path_factory.mktemp("proof") / "given", WIDE)


@pytest.fixture(scope="module")
def checkpoint(pool: Pool, given: Path) -> Path:
    [told] = pool.run(conversion_jobs.from_hf, 1, given, given.parent / "run", {})
    assert told.startswith("proven"), told
    return given.parent / "run" / "checkpoints" / "step_0000000"


def with_weight(folder: Path, out: Path, name: str, row: int, value: float) -> Path:
    """A copy of a model in which one weight is another one."""
    out.mkdir()
    weights = weights_of(folder)
    weights[name][row, 5] = value
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    return out


def with_tensor(folder: Path, out: Path, name: str, tensor: torch.Tensor) -> Path:
    """A copy of a model in which one tensor is another one."""
    out.mkdir()
    save_file({**weights_of(folder), name: tensor}, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    return out


def exported(pool: Pool, checkpoint: Path, out: Path, bug: str, **options: Any) -> str:
    options = {"without_tokenizer": True, **options}
    [told] = pool.run(conversion_jobs.mutated_to_hf, 1, checkpoint, out, bug, options)
    assert out.exists() == told.startswith("proven")
    return str(told)


def imported(pool: Pool, folder: Path, out: Path, bug: str = "no bug at all", **options: Any) -> str:
    [told] = pool.run(conversion_jobs.mutated_from_hf, 1, folder, out, bug, options)
    assert out.exists() == told.startswith("proven")
    return str(told)


def test_the_report_says_what_was_compared(pool: Pool, checkpoint: Path, tmp_path: Path) -> None:
    told = exported(pool, checkpoint, tmp_path / "out", "no bug at all", dtype=torch.bfloat16, proof_layers=1)
    assert "(1 of 2 layers, fp32)" in told
    assert told.endswith(
        "; 192 tokens, up to position 131,071; every value of all 21 tensors equal (float32 and bfloat16), with 8,000 "
        "rows of the vocabulary"
    )
    found = json.loads((tmp_path / "out" / "conversion.json").read_text())["proof"]
    expected = {
        "num_layers": 1,
        "of_layers": 2,
        "num_tokens": 192,
        "longest_position": 131071,
        "num_tensors": 21,
        "num_rows": 8000,
        "formats": ["float32", "bfloat16"],
    }
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("bug", ["a value of the last layer", "a layer twice"])
def test_a_layer_that_did_not_fit_is_compared_value_by_value(
    pool: Pool, checkpoint: Path, tmp_path: Path, bug: str
) -> None:
    told = exported(pool, checkpoint, tmp_path / "out", bug, proof_layers=1)
    assert told.startswith(f"{NOT_THE_SAME}model.layers.1."), told
    assert "decoder.layers.1.mlp." in told
    if bug == "a value of the last layer":
        assert "differ in 1 values, first in row 7 of ours, by up to 0.25. It was not published." in told


@pytest.mark.parametrize("table", ["embedding", "output layer"])
def test_every_row_of_the_vocabulary_is_compared(
    pool: Pool, given: Path, checkpoint: Path, tmp_path: Path, table: str
) -> None:
    assert UNSEEN_ROW not in make_prompts(VOCAB_SIZE, 131072).tokens_BS
    written = exported(pool, checkpoint, tmp_path / "out", f"a row of the written {table}")
    read = imported(pool, given, tmp_path / "run", f"a row of the read {table}")
    assert written.startswith(NOT_THE_SAME)
    assert read.startswith(NOT_THE_SAME)
    if table == "embedding":  # the logits of every prompt see a row of the output layer
        assert f"differ in 1 values, first in row {UNSEEN_ROW} of ours" in written
        assert "model.embed_tokens.weight does not come back out of embedding.word_embeddings.weight" in read


def test_new_rows_are_the_mean_of_the_others(pool: Pool, given: Path, tmp_path: Path) -> None:
    growth = Growth(vocab_size=VOCAB_SIZE + 300)
    told = imported(pool, given, tmp_path / "run", "a new row", growth=growth)
    assert told == (
        f"{NOT_THE_SAME}row {VOCAB_SIZE + 299} of embedding.word_embeddings.weight is new, and not the mean of the "
        "others. It was not published."
    )
    assert imported(pool, given, tmp_path / "good", growth=growth).startswith("proven")


def test_new_rows_in_bf16_are_the_mean_of_the_others(pool: Pool, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "given", WIDE, dtype=torch.bfloat16)
    growth = Growth(vocab_size=VOCAB_SIZE + 1)
    assert imported(pool, folder, tmp_path / "good", growth=growth).startswith("proven")
    told = imported(pool, folder, tmp_path / "run", "a new row", growth=growth)
    assert f"row {VOCAB_SIZE} of embedding.word_embeddings.weight is new" in told


@pytest.mark.parametrize("bug", ["a loud copy", "a copy of another layer"])
def test_copied_layers_are_copies_and_silent(pool: Pool, given: Path, tmp_path: Path, bug: str) -> None:
    """Also beyond the layers whose logits were compared."""
    growth = Growth(copied_layers=(1,))
    told = imported(pool, given, tmp_path / "run", bug, growth=growth, proof_layers=1)
    assert told.startswith(f"{NOT_THE_SAME}model.layers.1."), told
    assert imported(pool, given, tmp_path / "good", growth=growth, proof_layers=1).startswith("proven")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(pool: Pool, given: Path, tmp_path: Path, value: float) -> None:
    folder = with_weight(given, tmp_path / "bad", "model.layers.1.mlp.up_proj.weight", 3, value)
    told = imported(pool, folder, tmp_path / "run", proof_layers=1)
    assert told == (
        f"CheckpointError: {folder}: model.layers.1.mlp.up_proj.weight holds {value:g}: this is no model to go on "
        "with. Take another checkpoint of it."
    )


def test_a_checkpoint_with_numbers_that_are_none_is_refused(pool: Pool, checkpoint: Path, tmp_path: Path) -> None:
    told = exported(pool, checkpoint, tmp_path / "out", "nan in the checkpoint", proof_layers=1)
    assert told == (
        "CheckpointError: decoder.layers.1.mlp.linear_fc2.weight holds nan: this is no model to go on with. Take "
        "another checkpoint of it."
    )


@pytest.mark.parametrize(
    ("value", "dtype", "end"),
    [
        (70000.0, torch.float16, "float16 ends at 65504. Write another format: --dtype bf16 or --dtype fp32."),
        (3.4e38, torch.bfloat16, "bfloat16 ends at 3.38953e+38. Write another format: --dtype fp32."),
        (3.4e38, torch.float16, "float16 ends at 65504. Write another format: --dtype fp32."),
    ],
)
def test_a_number_that_the_format_cannot_hold_is_refused(
    pool: Pool, given: Path, tmp_path: Path, value: float, dtype: torch.dtype, end: str
) -> None:
    """The weight leaves the logits as they are: it stands in a row of the embedding that no prompt has."""
    folder = with_weight(given, tmp_path / "large", "model.embed_tokens.weight", UNSEEN_ROW, value)
    assert imported(pool, folder, tmp_path / "run").startswith("proven")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000000"
    told = exported(pool, checkpoint, tmp_path / "out", "no bug at all", dtype=dtype)
    assert told == f"CheckpointError: embedding.word_embeddings.weight holds {value:g}, but {end}"
    assert exported(pool, checkpoint, tmp_path / "same", "no bug at all").startswith("proven")


TINY_NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("value", "dtype", "problem"),
    [
        (2e-8, torch.float16, "100.0% of its nonzero values would be zero in float16"),
        (9e-8, torch.float16, "its values would change by 32.5% in float16"),
        (4e-41, torch.bfloat16, "100.0% of its nonzero values would be zero in bfloat16"),
    ],
)
def test_values_that_are_too_small_for_the_format_are_refused(
    pool: Pool, given: Path, tmp_path: Path, value: float, dtype: torch.dtype, problem: str
) -> None:
    folder = with_tensor(given, tmp_path / "small", TINY_NAME, torch.full((48, 40), value))
    assert imported(pool, folder, tmp_path / "run").startswith("proven")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000000"
    told = exported(pool, checkpoint, tmp_path / "out", "no bug at all", dtype=dtype)
    other = "--dtype fp32" if dtype == torch.bfloat16 else "--dtype bf16 or --dtype fp32"
    assert told.startswith(f"CheckpointError: decoder.layers.1.mlp.linear_fc2.weight: {problem}"), told
    assert told.endswith(f". Write another format: {other}."), told
    assert exported(pool, checkpoint, tmp_path / "same", "no bug at all").startswith("proven")


def test_the_proof_itself_sees_what_rounding_loses(pool: Pool, given: Path, tmp_path: Path) -> None:
    folder = with_tensor(given, tmp_path / "small", TINY_NAME, torch.full((48, 40), 2e-8))
    imported(pool, folder, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000000"
    told = exported(pool, checkpoint, tmp_path / "out", "a writer that looks at no losses", dtype=torch.float16)
    assert told.startswith(f"{NOT_THE_SAME}decoder.layers.1.mlp.linear_fc2.weight: 100.0% of its nonzero values"), told


def test_a_few_values_that_become_zero_are_told(pool: Pool, given: Path, tmp_path: Path) -> None:
    weight = weights_of(given)[TINY_NAME]
    weight[0, :7] = 1e-8
    weight[1] = 0.0
    folder = with_tensor(given, tmp_path / "small", TINY_NAME, weight)
    imported(pool, folder, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000000"
    told = exported(pool, checkpoint, tmp_path / "out", "no bug at all", dtype=torch.float16)
    assert told.endswith("; 7 values that are not zero are so small that they became zero"), told
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["proof"]["num_vanished"] == 7


def test_a_model_meant_for_one_position_is_proven_with_a_rotation(pool: Pool, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "given", Variant("one", "llama", {"max_position_embeddings": 1}))
    assert "; 64 tokens, up to position 31; " in imported(pool, folder, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000000"
    told = exported(pool, checkpoint, tmp_path / "out", "pairs rotated")
    assert told.startswith(f"{NOT_THE_SAME}they first differ at layer 0"), told


def test_a_rotation_that_only_long_texts_see_is_caught(pool: Pool, checkpoint: Path, tmp_path: Path) -> None:
    told = exported(pool, checkpoint, tmp_path / "out", "a base that long texts see")
    assert told.startswith(f"{NOT_THE_SAME}they first differ at layer 0"), told


def test_prompts_go_as_far_as_the_context_and_beyond_what_it_grew_from() -> None:
    sizes = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "ffn_hidden_size": 8, "vocab_size": 50}
    stretched = {"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    plain, llama3 = (ModelConfig.model_validate({**sizes, "rope_scaling": scaling}) for scaling in (None, stretched))
    assert longest_text({"max_position_embeddings": 4096}, plain) == 4096
    assert longest_text({}, plain) == 2048
    assert longest_text({"max_position_embeddings": 10**6}, plain) == 131072
    assert longest_text({"max_position_embeddings": 8192}, llama3) == 16384
    assert longest_text({"max_position_embeddings": 1}, plain) == 32
    dynamic = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}
    assert longest_text({"max_position_embeddings": 2, **dynamic}, plain) == 2
    with pytest.raises(CheckpointError, match="no rotation can be proven"):
        longest_text({"max_position_embeddings": 1, **dynamic}, plain)
    for length in (1, 2, 3, 31, 95, 96, 97, 128, 131072):
        prompts = make_prompts(50, length)
        assert prompts.tokens_BS.shape == prompts.positions_BS.shape == (2, min(length, 96))
        near, far = prompts.positions_BS
        assert near.tolist() == list(range(len(near)))
        assert (far[0], far[-1]) == (0, length - 1)
        assert bool((far.diff() > 0).all())


def test_a_dynamic_stretching_is_proven_up_to_its_length(pool: Pool, tmp_path: Path) -> None:
    """Beyond it transformers stretches, and training here does not."""
    rotary = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    folder = write_model(
        tmp_path / "given", Variant("short", "llama", {"max_position_embeddings": 40, "rope_parameters": rotary})
    )
    assert "; 80 tokens, up to position 39; " in imported(pool, folder, tmp_path / "run")


def test_each_tensor_may_have_a_format_of_its_own(pool: Pool, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "given", WIDE, dtype=torch.bfloat16)
    weights = {name: weight.float() if "norm" in name else weight for name, weight in weights_of(folder).items()}
    weights["model.norm.weight"] += 1e-4
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "(bfloat16 and float32)" in imported(pool, folder, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000000"
    assert "(bfloat16 and float32)" in exported(pool, checkpoint, tmp_path / "out", "no bug at all")
    assert_same_bits(folder, tmp_path / "out")


def test_formats_that_change_within_one_tensor_of_ours_are_refused(pool: Pool, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "given", WIDE)
    name = "model.layers.1.self_attn.k_proj.weight"
    save_file(
        {**weights_of(folder), name: weights_of(folder)[name].bfloat16()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "from-hf", str(folder), str(tmp_path / "run")])
    assert left.code == EXIT_BAD_DATA
    assert "q_proj.weight is float32, " in left.err
    assert "k_proj.weight is bfloat16, but both belong to one tensor of a checkpoint. Save the model in one" in left.err


def test_every_line_of_the_table_names_tests_that_are_there() -> None:
    root = Path(__file__).parents[2]
    text = (root / "docs" / "convert.md").read_text()
    table = text.split('## What "proven" covers')[1].split("\n\n")[2]
    named = [set(re.findall(r"`(test_\w+)`", line)) for line in table.splitlines()[2:]]
    assert all(named)
    there = {
        node.name
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert set().union(*named) <= there
