"""Each rule between fields, with its text."""

from pathlib import Path

import pytest
from config_text import SMALL

from harness.config.load import load_config
from harness.config.overrides import apply_override
from harness.config.problems import dotted
from harness.config.schema import Config
from harness.config.strict_yaml import parse_file_text
from harness.config.validate import cross_field_problems
from harness.errors import ConfigError


def problems(overrides: tuple[str, ...]) -> list[str]:
    """Problems between the fields of the small configuration after the overrides."""
    document = parse_file_text(SMALL, "small.yaml")
    for override in overrides:
        apply_override(document, override)
    found = cross_field_problems(dict(Config.model_validate(document.value)))
    return [f"{dotted(problem.location)}: {problem.text}" for problem in found]


NEEDS_STAGES = "needs pipeline_model_parallel_size greater than 1; set it, or leave this out"
LLAMA3_ONLY = "has no effect with type linear, only with llama3; remove it"

YARN = "model.rope_scaling={type: yarn, factor: 8"

REFUSED = [
    (
        ("model.qk_layernorm_over=width",),
        "model.qk_layernorm_over: width has no effect without qk_layernorm; set that, or remove this",
    ),
    (
        ("model.qk_layernorm_over=width", "model.qk_layernorm=true", "model.normalization=LayerNorm"),
        "model.qk_layernorm_over: width needs normalization RMSNorm, given LayerNorm; take head",
    ),
    ((f"{YARN}, beta_slow: 33}}",), "model.rope_scaling.beta_fast: must be at least beta_slow 33.0, given 32.0"),
    (
        (f"{YARN}, low_freq_factor: 2}}",),
        "model.rope_scaling.low_freq_factor: has no effect with type yarn, only with llama3; remove it",
    ),
    (
        ("model.rope_scaling={type: linear, factor: 8, original_max_position_embeddings: 9}",),
        "model.rope_scaling.original_max_position_embeddings: has no effect with type linear, only with llama3 and "
        "yarn; remove it",
    ),
    (
        (f"{YARN}, attention_factor: 1.5, mscale: 2}}",),
        "model.rope_scaling.mscale: has no effect beside attention_factor; remove one of them",
    ),
    (
        (f"{YARN}}}", "model.rotary_base=1"),
        "model.rotary_base: must be greater than 1 with yarn, which asks how fast pairs turn; given 1.0",
    ),
    (
        (f"{YARN}}}", "phases.0.rotary_base=0.5"),
        "phases.0.rotary_base: must be greater than 1 with yarn, which asks how fast pairs turn; given 0.5",
    ),
    (
        ("checkpoint={snapshot_folder: local, snapshot_every_steps: 10}",),
        "checkpoint.snapshot_folder: must be an absolute path, given local: each node has its own",
    ),
    (
        ("checkpoint.snapshot_folder=/dev/shm",),
        "checkpoint.snapshot_folder: names a folder for snapshots, but none are taken; "
        "give checkpoint.snapshot_every_steps",
    ),
    (
        ("model.hidden_size=100",),
        "model.hidden_size: must be a multiple of num_attention_heads 8, given 100; "
        "take 96 or 104, or give kv_channels (the size of one head)",
    ),
    (
        ("model.hidden_size=5",),
        "model.hidden_size: must be a multiple of num_attention_heads 8, given 5; "
        "take 8, or give kv_channels (the size of one head)",
    ),
    (
        ("model.hidden_size=8",),
        "model.hidden_size: makes the size of one head 1, but rotary positions need an even one",
    ),
    (
        ("model.kv_channels=7",),
        "model.kv_channels: makes the size of one head 7, but rotary positions need an even one",
    ),
    (
        ("model.num_query_groups=3",),
        "model.num_query_groups: must divide num_attention_heads 8, given 3; allowed: 1, 2, 4, 8",
    ),
    (
        ("model.rope_scaling={type: llama3, factor: 8, low_freq_factor: 4}",),
        "model.rope_scaling.high_freq_factor: must be greater than low_freq_factor 4.0, given 4.0",
    ),
    (
        ("model.rope_scaling={type: linear, factor: 0.5}",),
        "model.rope_scaling.factor: must be at least 1 (it stretches the context), given 0.5",
    ),
    (
        ("model.rope_scaling={type: ntk, factor: 2}", "model.kv_channels=2"),
        "model.rope_scaling.type: ntk needs heads larger than 2; take linear",
    ),
    (
        ("model.rope_scaling={type: linear, factor: 2, high_freq_factor: 8}",),
        f"model.rope_scaling.high_freq_factor: {LLAMA3_ONLY}",
    ),
    (
        ("parallel.sequence_parallel=true",),
        "parallel.sequence_parallel: needs tensor_model_parallel_size greater than 1; "
        "set it, or leave sequence_parallel out",
    ),
    (
        ("parallel.virtual_pipeline_model_parallel_size=2",),
        f"parallel.virtual_pipeline_model_parallel_size: {NEEDS_STAGES}",
    ),
    (
        ("parallel.num_layers_in_first_pipeline_stage=2",),
        f"parallel.num_layers_in_first_pipeline_stage: {NEEDS_STAGES}",
    ),
    (
        ("parallel.num_layers_in_last_pipeline_stage=2",),
        f"parallel.num_layers_in_last_pipeline_stage: {NEEDS_STAGES}",
    ),
    (
        ("parallel={context_parallel_size: 2, cp_comm_type: p2p}", "data.reset_at_document_borders=true"),
        "parallel.cp_comm_type: p2p is Transformer Engine's ring, which cannot be combined with "
        "data.reset_at_document_borders; take allgather or a2a",
    ),
    (
        ("parallel={context_parallel_size: 2, cp_comm_type: p2p}", "precision.dtype=fp32"),
        "parallel.cp_comm_type: p2p is Transformer Engine's ring, which cannot be combined with precision.dtype fp32; "
        "take allgather or a2a",
    ),
    (
        ("parallel.cp_comm_type=a2a",),
        "parallel.cp_comm_type: has no effect with context_parallel_size 1; give that, or remove this",
    ),
    (
        (
            "model.num_attention_heads=16",
            "model.num_query_groups=8",
            "parallel={context_parallel_size: 3, tensor_model_parallel_size: 2, cp_comm_type: a2a}",
        ),
        "parallel.context_parallel_size: 3 ranks cannot deal out the 4 groups of heads of a tensor-parallel rank "
        "(a2a): take 2 or 4, or cp_comm_type allgather",
    ),
    (
        (
            "model.num_attention_heads=8",
            "model.num_query_groups=2",
            "phases.0.parallel={context_parallel_size: 2, tensor_model_parallel_size: 4, cp_comm_type: a2a}",
        ),
        "phases.0.parallel.cp_comm_type: a2a cannot deal out heads where 4 tensor-parallel ranks share 2 groups; take "
        "allgather",
    ),
    (
        ("precision.fp8=hybrid", "precision.dtype=fp32"),
        "precision.fp8: needs dtype bf16, given fp32; set that, or leave fp8 out",
    ),
    (
        ("precision.fp8=hybrid", "model.ffn_hidden_size=72"),
        "model.ffn_hidden_size: must be a multiple of 16 (16 a tensor-parallel rank) with precision.fp8, given 72",
    ),
    (
        ("precision.fp8=hybrid", "phases.0.parallel={tensor_model_parallel_size: 4}", "model.ffn_hidden_size=96"),
        "model.ffn_hidden_size: must be a multiple of 64 (16 a tensor-parallel rank) with precision.fp8, given 96",
    ),
    (
        ("precision.fp8=hybrid", "phases.0.seq_length=68", "parallel.micro_batch_size=1"),
        "phases.0.seq_length: gives a rank 68 tokens of a micro-batch; precision.fp8 takes multiples of 8",
    ),
    (
        ("phases.0.blend={zh: 1, enn: 1}",),
        "phases.0.blend.enn: is not a channel of data.channels; did you mean 'en'? (channels: zh, en)",
    ),
    (("phases.0.train_steps=null",), "phases.0: has no length; give train_tokens or train_steps"),
    (
        ("phases.0.train_tokens=1000",),
        "phases.0.train_steps: is given as well as train_tokens; remove one of the two",
    ),
    (
        ("phases.0.schedule.warmup_steps=101",),
        "phases.0.schedule.warmup_steps: must be at most the phase's 100 steps, given 101",
    ),
    (
        ("phases.0.train_steps=null", "phases.0.train_tokens=2561", "phases.0.schedule.warmup_steps=12"),
        "phases.0.schedule.warmup_steps: must be at most the phase's 11 steps, given 12",
    ),
    (
        ("phases.0.schedule={style: wsd, warmup_steps: 90}",),
        "phases.0.schedule.decay_share: makes 20 steps of decay; with 90 of warm-up that is more than the phase's 100",
    ),
    (
        ("phases.0.schedule.decay_style=linear",),
        "phases.0.schedule.decay_style: has no effect with style cosine, only with wsd; remove it",
    ),
    (("run.stop_at_step=101",), "run.stop_at_step: must be at most the run's 100 steps, given 101"),
    (
        ("data.channels.en.validation_path=data/en",),
        "data.channels.en.validation_path: is the channel's own path; held-out documents must not be trained on",
    ),
    (
        ("evaluation={every_steps: 10, held_out_share: 0}", "data.channels.en.validation_path=held/en"),
        "evaluation.held_out_share: is 0, so nothing is held out for zh; raise it, or give each a validation_path",
    ),
    (
        ("evaluation={num_needles_per_depth: 2}", "phases.0.seq_length=64"),
        "evaluation.num_needles_per_depth: has no effect without evaluation.every_steps; give that too",
    ),
    (
        ("phases.0.evaluation={loss_by_position: true}",),
        "phases.0.evaluation.loss_by_position: has no effect without every_steps; give that too",
    ),
    (
        ("evaluation={every_steps: 5, num_needles_per_depth: 2}",),
        "phases.0.seq_length: must be at least 64 where needles are put into samples "
        "(evaluation.num_needles_per_depth), given 32",
    ),
]


@pytest.mark.parametrize(("overrides", "text"), REFUSED)
def test_refused(overrides: tuple[str, ...], text: str) -> None:
    assert problems(overrides) == [text]


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.hidden_size=100", "model.kv_channels=8"),
        ("model.num_query_groups=1",),
        ("model.rope_scaling={type: llama3, factor: 8}",),
        ("model.rope_scaling={type: linear, factor: 2, high_freq_factor: 4.0}",),
        (f"{YARN}, beta_fast: 2, beta_slow: 2, mscale: 0.7, mscale_all_dim: 0.7, truncate: false}}",),
        ("parallel.sequence_parallel=true", "parallel.tensor_model_parallel_size=2"),
        ("parallel.virtual_pipeline_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2"),
        ("parallel.num_layers_in_first_pipeline_stage=1", "parallel.pipeline_model_parallel_size=2"),
        ("parallel.virtual_pipeline_model_parallel_size=1",),
        ("phases.0.train_steps=null", "phases.0.train_tokens=2561", "phases.0.schedule.warmup_steps=11"),
        ("phases.0.schedule={style: wsd, warmup_steps: 80}",),
        ("run.stop_at_step=100",),
        ("evaluation={every_steps: 10, held_out_share: 0.5}",),
        ("evaluation.held_out_share=0",),
        ("evaluation={every_steps: 5, num_needles_per_depth: 2, loss_by_position: true}", "phases.0.seq_length=64"),
        ("evaluation.loss_by_position=true", "phases.0.evaluation.every_steps=5"),
        ("checkpoint={snapshot_folder: /dev/shm, snapshot_every_steps: 10}",),
    ],
)
def test_allowed(overrides: tuple[str, ...]) -> None:
    assert problems(overrides) == []


def test_rules_of_right_sections_are_applied_beside_other_problems(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    with pytest.raises(ConfigError) as caught:
        load_config(path, ("optimizer.learning_rate=0", "model.num_query_groups=3"))
    assert caught.value.problems == [
        "--set optimizer.learning_rate=0: optimizer.learning_rate: must be greater than 0.0, given 0",
        "--set model.num_query_groups=3: model.num_query_groups: must divide num_attention_heads 8, given 3; "
        "allowed: 1, 2, 4, 8",
    ]
