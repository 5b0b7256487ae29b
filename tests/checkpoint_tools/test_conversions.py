"""Hugging Face to ours and back, for every family; converters with a bug; means and growth."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import conversion_jobs
import pytest
import torch
from hugging_face_models import (
    VARIANTS,
    Variant,
    assert_same_bits,
    spell_as_transformers_4,
    weights_of,
    write_internlm2,
    write_minimind,
    write_minimind_moe,
    write_model,
)
from pool import Pool
from safetensors.torch import load_file, save_file

from checkpoint_tools.average import average
from checkpoint_tools.compare_models import compare, differences, open_either
from checkpoint_tools.growth import Growth
from checkpoint_tools.their_tensors import open_model
from harness.errors import CheckpointError, UsageError

PROVEN = r"proven: logits through megatron-core and transformers \(all layers, fp32\): largest difference .*"


def there_and_back(pool: Pool, folder: Path, tmp_path: Path, **options: Any) -> Path:
    [told] = pool.run(conversion_jobs.from_hf, 1, folder, tmp_path / "run", {})
    assert re.fullmatch(PROVEN, told), told
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000000"
    [told] = pool.run(conversion_jobs.to_hf, 1, checkpoint, tmp_path / "back", {"without_tokenizer": True, **options})
    assert re.fullmatch(PROVEN, told), told
    return tmp_path / "back"


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_there_and_back_is_the_same_to_the_bit(pool: Pool, tmp_path: Path, variant: Variant) -> None:
    folder = write_model(tmp_path / "given", variant)
    back = there_and_back(pool, folder, tmp_path, family=variant.model_type)
    assert_same_bits(folder, back)
    fields = json.loads((back / "config.json").read_text())
    longest = "n_positions" if variant.model_type == "gpt2" else "max_position_embeddings"
    assert (fields["model_type"], fields[longest]) == (variant.model_type, 128)
    assert not list(tmp_path.glob("*.partial"))


def test_what_a_file_has_besides_is_left_out(pool: Pool, tmp_path: Path) -> None:
    """An output layer beside a tied embedding, and the rotary buffers of old files."""
    folder = write_model(tmp_path / "given", Variant("tied", "llama", {"tie_word_embeddings": True}))
    weights = weights_of(folder)
    more = {
        "lm_head.weight": weights["model.embed_tokens.weight"].clone(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(6),
    }
    save_file({**weights, **more}, folder / "model.safetensors", metadata={"format": "pt"})
    back = there_and_back(pool, folder, tmp_path)
    assert set(weights_of(back)) == set(weights)


def test_gpt2_as_it_was_published(pool: Pool, tmp_path: Path) -> None:
    """Without the prefix of names, and with the mask of each layer."""
    folder = write_model(tmp_path / "given", next(one for one in VARIANTS if one.name == "gpt-2"))
    weights = {
        name.removeprefix("transformer."): tensor for name, tensor in load_file(folder / "model.safetensors").items()
    }
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 128, 128).tril() for layer in range(3)}
    save_file(weights | masks, folder / "model.safetensors", {"format": "pt"})
    [told] = pool.run(conversion_jobs.from_hf, 1, folder, tmp_path / "run", {})
    assert re.fullmatch(PROVEN, told), told


def test_a_tied_model_with_an_output_layer_of_its_own_is_refused(pool: Pool, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "given", Variant("tied", "llama", {"tie_word_embeddings": True}))
    weights = {**weights_of(folder), "lm_head.weight": torch.zeros(131, 48)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    [told] = pool.run(conversion_jobs.from_hf, 1, folder, tmp_path / "run", {})
    assert "says tie_word_embeddings, but lm_head.weight holds other numbers than model.embed_tokens.weight" in told
    assert not list(tmp_path.glob("run*"))


def test_bf16_in_several_files_there_and_back(pool: Pool, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "given", VARIANTS[0], dtype=torch.bfloat16, shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) == 2
    back = there_and_back(pool, folder, tmp_path, max_shard_bytes=30_000, num_workers=2)
    assert_same_bits(folder, back)
    index = json.loads((back / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(w.numel() * 2 for w in weights_of(back).values())
    assert all((back / name).stat().st_size < 40_000 for name in set(index["weight_map"].values()))


@pytest.mark.parametrize("name", ["llama-gqa", "llama-3.1", "llama-linear", "llama-dynamic", "qwen2-tied"])
def test_settings_as_transformers_4_wrote_them_are_the_same_model(pool: Pool, tmp_path: Path, name: str) -> None:
    [variant] = [variant for variant in VARIANTS if variant.name == name]
    folder = write_model(tmp_path / "given", variant)
    spell_as_transformers_4(shutil.copytree(folder, tmp_path / "old"))
    back = there_and_back(pool, tmp_path / "old", tmp_path, family=variant.model_type)
    assert_same_bits(folder, back)
    assert differences(open_either(folder), open_either(back)) == []
    written = json.loads((back / "config.json").read_text())
    given = json.loads((tmp_path / "old" / "config.json").read_text())
    assert {key: written[key] for key in ("rope_theta", "rope_scaling")} == {
        key: given[key] for key in ("rope_theta", "rope_scaling")
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 4, "vocab_size": 97},
        {"tie_word_embeddings": True},
        {"rope_scaling": None},
    ],
    ids=["gqa", "mqa", "mha", "tied", "not-dynamic"],
)
def test_internlm2_there_and_back(pool: Pool, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write_internlm2(tmp_path / "given", **changes)
    back = there_and_back(pool, folder, tmp_path, family="internlm2")
    assert_same_bits(folder, back)
    written, given = (json.loads((path / "config.json").read_text()) for path in (back, folder))
    assert written["architectures"] == ["InternLM2ForCausalLM"]
    assert written["rope_scaling"] == given["rope_scaling"]


def test_a_family_that_transformers_does_not_know_is_told(pool: Pool, grouped: Path, tmp_path: Path) -> None:
    arguments = ["convert", "to-hf", str(grouped), str(tmp_path / "out"), "--without-tokenizer", "--family"]
    [left] = pool.run(conversion_jobs.command, 1, [*arguments, "internlm2"])
    assert left.code == 0, left.err
    assert "warning: transformers does not know internlm2: AutoModelForCausalLM loads this folder only" in left.err
    assert "trust_remote_code=True" in left.err
    arguments[3] = str(tmp_path / "llama")
    [left] = pool.run(conversion_jobs.command, 1, [*arguments, "llama"])
    assert (left.code, "trust_remote_code" in left.err) == (0, False)


def test_internlm2_is_written_as_llama_with_the_same_function(pool: Pool, tmp_path: Path) -> None:
    back = there_and_back(pool, write_internlm2(tmp_path / "given"), tmp_path)
    assert json.loads((back / "config.json").read_text())["model_type"] == "llama"


def test_minimind_is_read_and_written_as_llama(pool: Pool, tmp_path: Path) -> None:
    folder = write_minimind(tmp_path / "given")
    back = there_and_back(pool, folder, tmp_path)
    assert_same_bits(folder, back)
    assert json.loads((back / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("normalized", [True, False])
def test_minimind_with_experts_there_and_back(pool: Pool, tmp_path: Path, normalized: bool) -> None:
    folder = write_minimind_moe(tmp_path / "given", normalized=normalized)
    back = there_and_back(pool, folder, tmp_path, family="minimind")
    assert_same_bits(folder, back)
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000000"
    options = {"without_tokenizer": True, "family": "minimind"}
    bug = "gate and up of experts swapped"
    [told] = pool.run(conversion_jobs.mutated_to_hf, 1, checkpoint, tmp_path / "wrong", bug, options)
    assert "they first differ at layer 0" in told, told
    given, written = (json.loads((one / "config.json").read_text()) for one in (folder, back))
    assert {key: written[key] for key in given if key in EXPERT_KEYS} == {
        key: given[key] for key in given if key in EXPERT_KEYS
    }


EXPERT_KEYS = ("use_moe", "num_experts_per_tok", "n_routed_experts", "n_shared_experts", "norm_topk_prob")


@pytest.fixture(scope="module")
def grouped(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random model with as many groups as heads, so that a swap of q and k has the right shapes."""
    folder = tmp_path_factory.mktemp("bugs")
    given = write_model(folder / "given", Variant("mha", "llama", {"num_key_value_heads": 4}))
    [told] = pool.run(conversion_jobs.from_hf, 1, given, folder / "run", {})
    assert told.startswith("proven"), told
    return folder / "run" / "checkpoints" / "step_0000000"


@pytest.mark.parametrize(
    ("bug", "place"),
    [
        ("q and k swapped", "layer 0"),
        ("groups ignored", "layer 0"),
        ("pairs rotated", "layer 0"),
        ("gate and up swapped", "layer 0"),
        ("norms swapped", "layer 0"),
        ("wrong epsilon", "layer 0"),
        ("a layer twice", "layer 1"),
    ],
)
def test_the_proof_catches_a_bug_and_names_the_layer(
    pool: Pool, grouped: Path, tmp_path: Path, bug: str, place: str
) -> None:
    [told] = pool.run(conversion_jobs.mutated_to_hf, 1, grouped, tmp_path / "out", bug)
    assert told.startswith(
        f"CheckpointError: The converted model is not the same model: they first differ at {place}.\n"
    ), told
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").is_dir()


def test_the_proof_catches_a_rotary_base_that_short_prompts_hardly_see(
    pool: Pool, grouped: Path, tmp_path: Path
) -> None:
    [told] = pool.run(conversion_jobs.mutated_to_hf, 1, grouped, tmp_path / "out", "wrong rope base")
    assert "rotates by other frequencies than the checkpoint" in told
    assert not (tmp_path / "out").exists()


def test_the_first_layers_can_stand_for_a_large_model(pool: Pool, grouped: Path, tmp_path: Path) -> None:
    options = {"without_tokenizer": True, "proof_layers": 1}
    [told] = pool.run(conversion_jobs.to_hf, 1, grouped, tmp_path / "out", options)
    assert "(1 of 2 layers, fp32)" in told
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["proof"]["num_layers"] == 1


def test_weights_are_rounded_to_the_format_that_is_asked_for(pool: Pool, grouped: Path, tmp_path: Path) -> None:
    options = {"without_tokenizer": True, "dtype": torch.bfloat16}
    [told] = pool.run(conversion_jobs.to_hf, 1, grouped, tmp_path / "out", options)
    assert re.fullmatch(PROVEN, told), told
    given, written = weights_of(grouped.parents[2] / "given"), weights_of(tmp_path / "out")
    assert all(torch.equal(written[name], weight.bfloat16()) for name, weight in given.items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


ROUNDED = ("llama-gqa", "qwen2-tied", "qwen3-moe", "deepseek-v2-lite", "deepseek-v3", "glm-4-moe", "gemma-2", "gpt-oss")


@pytest.mark.parametrize("name", ROUNDED)
def test_a_rounded_export_is_the_same_model_but_for_its_rounding(pool: Pool, tmp_path: Path, name: str) -> None:
    """With experts the proof rounds the biases that balance them, too: each decides which experts are chosen."""
    [variant] = [variant for variant in VARIANTS if variant.name == name]
    folder = write_model(tmp_path / "given", variant)
    back = there_and_back(pool, folder, tmp_path, family=variant.model_type, dtype=torch.bfloat16)
    checkpoint = open_either(tmp_path / "run" / "checkpoints" / "step_0000000")
    found = compare(checkpoint, open_either(back), may_round=True)
    assert (found.differences, found.converted) == ((), {"rounding to bfloat16": len(checkpoint.names)})
    assert len(differences(checkpoint, open_either(back))) == len(checkpoint.names), "each bit counts there"
    weights = weights_of(back)
    last = sorted(name for name in weights if name.endswith("down_proj.weight") or name.endswith("down_proj"))[-1]
    weights[last].view(torch.int16).view(-1)[-1] ^= 1
    save_file(weights, back / "model.safetensors", metadata={"format": "pt"})
    found = compare(checkpoint, open_either(back), may_round=True)
    assert len(found.differences) == 1
    assert found.converted == {"rounding to bfloat16": len(checkpoint.names) - 1}


def test_a_wider_export_is_the_same_model_to_its_last_bit(pool: Pool, tmp_path: Path) -> None:
    """What an export in fp32 has of a bf16 checkpoint is exact, and so is the comparison."""
    folder = write_model(tmp_path / "given", VARIANTS[0], dtype=torch.bfloat16)
    back = there_and_back(pool, folder, tmp_path, dtype=torch.float32)
    checkpoint = open_either(tmp_path / "run" / "checkpoints" / "step_0000000")
    found = compare(checkpoint, open_either(back), may_round=True)
    assert (found.differences, found.converted) == ((), {"widening to float32": 15})
    weights = weights_of(back)
    weights["model.norm.weight"].view(torch.int32)[3] ^= 1
    save_file(weights, back / "model.safetensors", metadata={"format": "pt"})
    for pair in ((checkpoint, open_either(back)), (open_either(back), checkpoint)):
        [difference] = compare(*pair, may_round=True).differences
        assert difference.name == "decoder.final_layernorm.weight"
        assert "after widening to float32 1 of 48 numbers differ" in difference.what


def test_an_interrupted_conversion_keeps_finished_files(pool: Pool, grouped: Path, tmp_path: Path) -> None:
    options = {"without_tokenizer": True, "max_shard_bytes": 30_000}
    [told] = pool.run(conversion_jobs.mutated_to_hf, 1, grouped, tmp_path / "whole", "no bug at all", options)
    assert told.startswith("proven"), told
    [told] = pool.run(conversion_jobs.mutated_to_hf, 1, grouped, tmp_path / "out", "power cut", options)
    assert told == "CheckpointError: the power was cut"
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out.partial").glob("*.safetensors")}
    assert len(kept) == 1
    [told] = pool.run(conversion_jobs.to_hf, 1, grouped, tmp_path / "out", options)
    assert told.startswith("proven"), told
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == written for name, written in kept.items())
    assert_same_bits(tmp_path / "whole", tmp_path / "out")


def test_a_flipped_bit_stops_the_conversion(pool: Pool, grouped: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "run" / "checkpoints" / "step_0000000"
    shutil.copytree(grouped, damaged)
    (shard,) = damaged.glob("*.distcp")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    [told] = pool.run(conversion_jobs.to_hf, 1, damaged, tmp_path / "out", {"without_tokenizer": True})
    assert "cannot be used:\n  '__0_0.distcp' was altered: its hash is" in told
    assert not list(tmp_path.glob("out*"))


def test_a_larger_model_computes_the_same_at_the_start(pool: Pool, tmp_path: Path) -> None:
    given = write_model(tmp_path / "given", VARIANTS[0])
    growth = {"growth": Growth(copied_layers=(0, 1), vocab_size=150)}
    [told] = pool.run(conversion_jobs.from_hf, 1, given, tmp_path / "run", growth)
    assert re.fullmatch(PROVEN, told), told
    grown = open_either(tmp_path / "run" / "checkpoints" / "step_0000000")
    assert (grown.model.num_layers, grown.model.vocab_size) == (4, 150)
    embedding = weights_of(given)["model.embed_tokens.weight"]
    assert torch.equal(grown.read("embedding.word_embeddings.weight")[131:], embedding.mean(0).expand(19, -1))
    for layer, expected in enumerate([False, True, False, True]):
        projection = grown.read(f"decoder.layers.{layer}.mlp.linear_fc2.weight")
        assert (projection.abs().max() == 0) == expected


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_a_mixture_of_copies_computes_what_the_dense_model_does(pool: Pool, tmp_path: Path, model_type: str) -> None:
    given = write_model(tmp_path / "given", Variant("dense", model_type, {"head_dim": 24}))
    growth = {"growth": Growth(num_experts=4, experts_per_token=2)}
    [told] = pool.run(conversion_jobs.from_hf, 1, given, tmp_path / "run", growth)
    assert re.fullmatch(PROVEN, told), told
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000000"
    grown = open_either(checkpoint)
    assert (grown.model.num_moe_experts, grown.model.moe_router_topk, grown.model.expert_width) == (4, 2, 40)
    experts = grown.read("decoder.layers.1.mlp.experts.linear_fc2.weight")
    dense = weights_of(given)["model.layers.1.mlp.down_proj.weight"]
    assert all(torch.equal(expert, dense) for expert in experts)
    routers = [grown.read(f"decoder.layers.{layer}.mlp.router.weight") for layer in range(2)]
    assert not torch.equal(*routers)
    assert 0.01 < float(routers[0].std()) < 0.03
    [told] = pool.run(conversion_jobs.to_hf, 1, checkpoint, tmp_path / "back", {"without_tokenizer": True})
    assert re.fullmatch(PROVEN, told), told
    fields = json.loads((tmp_path / "back" / "config.json").read_text())
    assert fields["model_type"] == {"llama": "mixtral", "qwen3": "qwen3_moe"}[model_type]


@pytest.mark.parametrize(
    ("variant", "growth", "problem"),
    [
        (Variant("b", "llama", {"attention_bias": True, "mlp_bias": True}), {"num_experts": 4}, "MLPs have biases"),
        (Variant("m", "mixtral", {"num_local_experts": 4}), {"num_experts": 8}, "the model has 4 experts already"),
        (VARIANTS[0], {"num_experts": 4, "experts_per_token": 1}, "--experts-per-token 1: give a number from 2 to"),
        (VARIANTS[0], {"num_experts": 4, "experts_per_token": 5}, "--experts-per-token 5: give a number from 2 to"),
    ],
    ids=str,
)
def test_what_cannot_become_a_mixture_is_refused(
    tmp_path: Path, variant: Variant, growth: dict[str, Any], problem: str
) -> None:
    theirs = open_model(write_model(tmp_path / "given", variant))
    with pytest.raises(UsageError, match=problem):
        Growth(**growth).grown(theirs.model)


def test_the_proof_catches_a_copy_that_is_not_silent(pool: Pool, tmp_path: Path) -> None:
    given = write_model(tmp_path / "given", VARIANTS[0])
    options = {"growth": Growth(copied_layers=(1,))}
    [told] = pool.run(conversion_jobs.mutated_from_hf, 1, given, tmp_path / "run", "a loud copy", options)
    assert "they first differ at final norm" in told
    assert not (tmp_path / "run").exists()


def test_the_mean_of_checkpoints(pool: Pool, grouped: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "given", Variant("mha", "llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}))
    with torch.no_grad():
        doubled = {name: weight * 3 for name, weight in weights_of(other).items()}
    save_file(doubled, other / "model.safetensors", metadata={"format": "pt"})
    [told] = pool.run(conversion_jobs.from_hf, 1, other, tmp_path / "run", {})
    assert told.startswith("proven"), told
    second = tmp_path / "run" / "checkpoints" / "step_0000000"
    path = average([grouped, second], tmp_path / "mean", conversion_jobs.no_display).checkpoint
    one, mean = open_either(grouped), open_either(path)
    assert all(torch.allclose(mean.read(name), one.read(name) * 2, atol=1e-6) for name in one.names)
    assert [found.name for found in differences(one, mean)] != []
    [told] = pool.run(conversion_jobs.to_hf, 1, path, tmp_path / "out", {"without_tokenizer": True})
    assert told.startswith("proven"), told


def test_what_cannot_be_averaged(pool: Pool, grouped: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="A mean needs at least two checkpoints"):
        average([grouped], tmp_path / "mean", conversion_jobs.no_display)
    other = write_model(tmp_path / "given", VARIANTS[0])
    [told] = pool.run(conversion_jobs.from_hf, 1, other, tmp_path / "run", {})
    assert told.startswith("proven"), told
    with pytest.raises(CheckpointError, match=r"is of another model than .*\n  model\.num_query_groups: "):
        average(
            [grouped, tmp_path / "run" / "checkpoints" / "step_0000000"], tmp_path / "mean", conversion_jobs.no_display
        )
