"""`harness convert` as a user sees it: what it prints, how it leaves, what is there afterwards."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import conversion_jobs
import pytest
import sentencepiece
import torch
from hugging_face_models import (
    SENTENCES,
    VARIANTS,
    VOCAB_SIZE,
    Variant,
    assert_same_bits,
    weights_of,
    write_internlm2,
    write_model,
    write_tokenizer,
)
from pool import Pool
from safetensors.torch import save_file

from checkpoint_tools.convert_verbs import left_out_text
from checkpoint_tools.our_tensors import open_checkpoint
from checkpoint_tools.proof import layers_that_fit
from harness.cli import run
from harness.errors import EXIT_BAD_DATA, EXIT_USAGE
from harness.text import printable
from harness.tokenizers.identity import identity_of, recorded_identity
from harness.tokenizers.tokenizer import open_tokenizer


@pytest.fixture(scope="module")
def checkpoint(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted model with a tokenizer."""
    folder = tmp_path_factory.mktemp("commands")
    given = write_model(folder / "given", Variant("read", "llama", {"vocab_size": VOCAB_SIZE}))
    write_tokenizer(given)
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "from-hf", str(given), str(folder / "run")])
    assert left.code == 0, left.err
    assert "LlamaForCausalLM, 21 tensors, 0." in left.out
    assert "\nproven: logits through megatron-core and transformers (all layers, fp32)" in left.out
    return folder / "run" / "checkpoints" / "step_0000000"


def test_a_sample_is_what_the_exported_folder_writes(pool: Pool, checkpoint: Path, tmp_path: Path) -> None:
    out, prompt = tmp_path / "out", "the quick brown fox"
    arguments = ["convert", "to-hf", str(checkpoint), str(out), "--sample", prompt]
    [left] = pool.run(conversion_jobs.command, 1, arguments)
    assert (left.code, left.err) == (0, "")
    [written] = pool.run(conversion_jobs.continued, 1, out, prompt, 24)
    assert left.out.splitlines()[-1] == printable(f"it writes: {' '.join(written.split())}")
    assert written.startswith(prompt)
    assert len(written) > len(prompt)


def test_the_folder_has_all_that_a_model_needs(pool: Pool, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "to-hf", str(checkpoint), str(out)])
    assert left.code == 0, left.err
    given = checkpoint.parents[2] / "given"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (given / name).read_bytes()
    expected = {"config.json", "generation_config.json", "model.safetensors", "conversion.json"}
    record = json.loads((out / "conversion.json").read_text())["tokenizer"]
    assert recorded_identity(record) == identity_of(open_tokenizer(out))
    assert {path.name for path in out.iterdir()} == expected | {"tokenizer.json", "tokenizer_config.json"}
    assert_same_bits(given, out)


def test_a_bug_leaves_with_an_exit_code_and_names_the_layer(pool: Pool, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["convert", "to-hf", str(checkpoint), str(tmp_path / "out")]
    [left] = pool.run(conversion_jobs.command, 1, arguments, "a layer twice")
    assert left.code == EXIT_BAD_DATA
    assert "The converted model is not the same model: they first differ at layer 1.\n" in left.err
    assert "It was not published." in left.err
    assert "Traceback" not in left.err
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_fit_is_compared_as_far_as_it_fits(pool: Pool, checkpoint: Path, tmp_path: Path) -> None:
    model = open_checkpoint(checkpoint).model
    memory_bytes = next(room for room in range(0, 10**8, 1000) if layers_that_fit(model, room) == 1)
    [told] = pool.run(conversion_jobs.with_memory, 1, checkpoint, tmp_path / "out", memory_bytes)
    assert "(1 of 2 layers, fp32)" in told
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["proof"]["num_layers"] == 1
    assert not (tmp_path / "out" / "proof").exists()
    [told] = pool.run(conversion_jobs.with_memory, 1, checkpoint, tmp_path / "none", memory_bytes - 1000)
    assert told.startswith("CheckpointError: The proof needs memory for one layer with embedding and output (0.0 GB)")
    assert not (tmp_path / "none").exists()


def test_inspect_and_diff_take_either_format(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = checkpoint.parents[2] / "given"
    assert run(["checkpoint", "inspect", str(given)]) == 0
    told = capsys.readouterr().out
    assert "LlamaForCausalLM, a Hugging Face model\nmodel: num_layers 2, hidden_size 48" in told
    assert "model.layers.1.mlp.up_proj.weight" in told
    assert run(["checkpoint", "inspect", str(given), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tensors"]["model.norm.weight"] == {
        "shape": [48],
        "dtype": "float32",
        "file": "model.safetensors",
        "bytes": 192,
    }
    for one, other in ((checkpoint, given), (given, checkpoint), (given, given)):
        assert run(["checkpoint", "diff", str(one), str(other)]) == 0
        assert capsys.readouterr().out == "15 weights compared, 0 differences\n"

    changed = shutil.copytree(given, tmp_path / "changed")
    weights = weights_of(changed)
    weights["model.layers.1.self_attn.k_proj.weight"][0, 0] += 0.5
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    _changed(rms_norm_eps=1e-4)(changed)
    assert run(["checkpoint", "diff", str(checkpoint), str(changed)]) == 1
    told = capsys.readouterr().out
    assert "decoder.layers.1.self_attention.linear_qkv.weight  largest difference 0.5" in told
    assert "model.norm_epsilon" in told
    assert "15 weights compared, 2 differences" in told
    assert run(["checkpoint", "diff", str(checkpoint), str(changed), "--json"]) == 1
    assert set(json.loads(capsys.readouterr().out)) == {
        "model.norm_epsilon",
        "decoder.layers.1.self_attention.linear_qkv.weight",
    }


def test_a_mean_and_a_larger_model_by_command(pool: Pool, checkpoint: Path, tmp_path: Path) -> None:
    """The mean of a checkpoint with itself is itself; a grown model has more layers and rows, and the same logits."""
    mean, out, grown = (tmp_path / name for name in ("mean", "out", "grown"))
    arguments = ["convert", "average", str(checkpoint), str(checkpoint), str(mean)]
    [left] = pool.run(conversion_jobs.command, 1, arguments)
    path = mean / "checkpoints" / "step_0000000"
    assert (left.code, left.out) == (0, f"mean of 2 checkpoints: {path}\n")
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "to-hf", str(path), str(out), "--without-tokenizer"])
    assert left.code == 0, left.err
    given = checkpoint.parents[2] / "given"
    assert_same_bits(given, out)
    arguments = ["convert", "from-hf", str(given), str(grown), "--expand-layers", "0,1", "--vocab-size", "500"]
    [left] = pool.run(conversion_jobs.command, 1, arguments)
    assert left.code == 0, left.err
    model = open_checkpoint(grown / "checkpoints" / "step_0000000").model
    assert (model.num_layers, model.vocab_size) == (4, 500)


def test_what_is_not_converted_is_said(pool: Pool, tmp_path: Path) -> None:
    given = write_model(tmp_path / "given", Variant("tied", "llama", {"tie_word_embeddings": True}))
    weights = weights_of(given)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights |= {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.zeros(6) for layer in range(2)}
    save_file(weights, given / "model.safetensors", metadata={"format": "pt"})
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "from-hf", str(given), str(tmp_path / "run")])
    assert left.code == 0, left.err
    assert "\nleft out: lm_head.weight, model.layers.*.self_attn.rotary_emb.inv_freq (2)\n" in left.out


def test_the_optimizers_tensors_are_counted() -> None:
    names = ["optimizer.state.exp_avg.output_layer.weight", "optimizer.state.param.output_layer.weight", "rng_state"]
    assert left_out_text(names) == "optimizer.* (2), rng_state"


@pytest.mark.parametrize("verb", ["to-hf", "from-hf", "check", "average"])
def test_the_help_of_every_verb_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", verb, "--help"]) == 0
    assert f"  harness convert {verb} " in capsys.readouterr().out


def test_a_tokenizer_that_transformers_would_misread_is_told(pool: Pool, tmp_path: Path) -> None:
    given = write_model(tmp_path / "given", Variant("read", "llama", {"vocab_size": VOCAB_SIZE}))
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=content,
        vocab_size=VOCAB_SIZE,
        model_type="bpe",  # and removes spaces, which no tokenizer.json can do in this way
        byte_fallback=True,
        minloglevel=2,
    )
    (given / "tokenizer.model").write_bytes(content.getvalue())
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "from-hf", str(given), str(tmp_path / "run")])
    assert left.code == 0, left.err
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000000"
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "to-hf", str(checkpoint), str(tmp_path / "out")])
    assert left.code == 0, left.err
    assert "warning: " in left.err
    assert "tokenizer.model is not written as a tokenizer.json, for want of one with the same ids" in left.err
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == content.getvalue()
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_a_dynamic_stretching_is_told(pool: Pool, tmp_path: Path) -> None:
    given = write_internlm2(tmp_path / "given")
    [left] = pool.run(conversion_jobs.command, 1, ["convert", "from-hf", str(given), str(tmp_path / "run")])
    assert left.code == 0
    assert "warning: its rope_scaling is dynamic: it stretches sequences of more than 128 tokens" in left.err


def _cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _changed(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def _as_integers(folder: Path) -> None:
    weights = weights_of(folder)
    weights["model.norm.weight"] = torch.ones(48, dtype=torch.int64)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _with_names_of_internlm2(folder: Path) -> None:
    weights = {name.replace("embed_tokens", "tok_embeddings"): tensor for name, tensor in weights_of(folder).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_cut, "model.safetensors is damaged or truncated"),
        (_as_integers, "model.norm.weight is I64; weights must be F32, BF16, F16"),
        (_as_pickle, "pytorch_model.bin is a pickle, which is never read"),
        (_with_names_of_internlm2, "model.embed_tokens.weight is missing\n  model.tok_embeddings.weight has no place"),
        (_changed(model_type="qwen3"), "model.layers.0.self_attn.q_norm.weight is missing"),
        (_changed(model_type="internlm2", bias=False), "head_dim: not known"),
        (_changed(model_type="phi3"), "(its fused projections are ordered otherwise"),
        (_changed(model_type="gemma2"), "hidden_act: 'silu', known is gelu_pytorch_tanh"),
        (_changed(num_hidden_layers=3), "model.layers.2.input_layernorm.weight is missing"),
        (_changed(num_hidden_layers=1), "model.layers.1.input_layernorm.weight has no place in this model"),
        (_changed(num_key_value_heads=1), "k_proj.weight: [24, 48], wanted is [12, 48]"),
        (_changed(vocab_size=130), "model.embed_tokens.weight: [131, 48], wanted is [130, 48]"),
        (_changed(hidden_size=96), "wanted is [96]"),
        (_changed(hidden_act="gelu"), "hidden_act: 'gelu', known is silu"),
        (_changed(num_attention_heads=5), "num_query_groups must divide num_attention_heads 5, given 2"),
        (_changed(head_dim=7), "kv_channels makes the size of one head 7, but rotary positions need an even one"),
    ],
)
def test_a_wrong_model_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], problem: str
) -> None:
    given = write_model(tmp_path / "given", VARIANTS[0])
    damage(given)
    capsys.readouterr()
    assert run(["convert", "from-hf", str(given), str(tmp_path / "out")]) == EXIT_BAD_DATA
    told = capsys.readouterr().err
    assert problem in told
    assert "Traceback" not in told
    assert not list(tmp_path.glob("out*"))


def test_what_is_mixed_up_is_told(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = checkpoint.parents[2] / "given"
    for arguments, problem in (
        (["to-hf", str(given)], "is a Hugging Face model, no checkpoint. To go the other way: harness convert from-hf"),
        (["from-hf", str(checkpoint)], "is a checkpoint of harness. To go the other way: harness convert to-hf"),
    ):
        assert run(["convert", *arguments, str(tmp_path / "out")]) == EXIT_USAGE
        assert problem in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_a_cut_checkpoint_is_told_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    damaged = tmp_path / "run" / "checkpoints" / "step_0000000"
    shutil.copytree(checkpoint, damaged)
    shard = damaged / "__0_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert run(["convert", "to-hf", str(damaged), str(tmp_path / "out"), "--no-hashes"]) == EXIT_BAD_DATA
    assert "'__0_0.distcp' has " in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
