"""The settings of stages and of recomputation: every form that people give, and a sentence for what does not fit."""

from __future__ import annotations

import pytest
from config_text import changed
from pydantic import ValidationError

from harness.config.load import dump_config
from harness.config.overrides import apply_override
from harness.config.parallel import CHEAP_MODULES, ParallelConfig
from harness.config.pipeline_layout import LAYER_NAMES
from harness.config.problems import dotted
from harness.config.schema import Config
from harness.config.strict_yaml import parse_file_text
from harness.config.validate import cross_field_problems

PP2 = "parallel.pipeline_model_parallel_size=2"
LAYOUT = "parallel.pipeline_model_parallel_layout"
SELECTIVE = "parallel.recompute_granularity=selective"
MODULES = "parallel.recompute_modules"
MOE = ("model.num_moe_experts=4", "model.moe_layer_freq=[0, 1]", SELECTIVE)
LATENT = (
    "model.multi_latent_attention=true",
    "model.kv_lora_rank=16",
    "model.qk_head_dim=8",
    "model.qk_pos_emb_head_dim=8",
    "model.v_head_dim=8",
)


def configured(*overrides: str) -> Config:
    document = parse_file_text(changed("num_layers: 4", "num_layers: 2"), "small.yaml")
    for override in overrides:
        apply_override(document, override)
    return Config.model_validate(document.value)


def problems(*overrides: str) -> list[str]:
    found = cross_field_problems(dict(configured(*overrides)))
    return [f"{dotted(problem.location)}: {problem.text}" for problem in found]


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ("EttL", ("EttL",)),
        ("Et|tL", ("Et", "tL")),
        ("Et*3|(tt|)*2L", ("Ettt", "tt", "tt", "L")),
        ("E,t*2,|(t*2,|)*2,t,L", ("Ett", "tt", "tt", "tL")),
        ("E(|t)*2L", ("E", "t", "tL")),
        ("Et|*1tL", ("Et", "tL")),
        (["Et*2", "tL"], ("Ett", "tL")),
        ([["embedding", "decoder"], ["decoder", " Loss "]], ("Et", "tL")),
        ([["embedding"], "ttt", ["loss"]], ("E", "ttt", "L")),
    ],
)
def test_layouts_of_stages(given: object, stages: tuple[str, ...]) -> None:
    parallel = ParallelConfig.model_validate({"pipeline_model_parallel_layout": given})
    assert parallel.pipeline_model_parallel_layout == stages
    assert ParallelConfig.model_validate(parallel.model_dump(mode="json")) == parallel


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", ["Et*3|(tt|)*29,L", "E|(t*2|tt)*3|tL", "Et|(ttt|tt|)*2,tL", "E,t|*1t*4L", "E(t|)*3L"])
def test_megatron_reads_the_same_text_alike(text: str) -> None:
    theirs = pytest.importorskip("megatron.core.transformer.pipeline_parallel_layer_layout")
    ours = ParallelConfig.model_validate({"pipeline_model_parallel_layout": text}).pipeline_model_parallel_layout
    assert ours is not None
    stages = theirs.PipelineParallelLayerLayout.parse_str_to_list(text)
    assert [[LAYER_NAMES[letter] for letter in stage] for stage in ours] == [[kind.name for kind in s] for s in stages]


FORMS = "must be text of E .* or a list of stages, each such text or a list of embedding, decoder and loss"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("", FORMS),
        ("E t|L", FORMS),
        ("Ex|L", FORMS),
        ("E(t", FORMS),
        ("Et*0L", FORMS),
        ("E((t)*2)*2L", FORMS),
        (5, FORMS),
        ([], FORMS),
        (["Et|t", "L"], FORMS),
        ([["embedding", "layer"], ["loss"]], FORMS),
        ([["embedding", 1], ["loss"]], FORMS),
        ("Et|m|L", r"has m \(a layer that predicts further tokens\); no model has any"),
        ("tE|tL", r"must have one E \(embedding\), at the very beginning"),
        ("Et|EtL", r"must have one E \(embedding\), at the very beginning"),
        ("Et|Lt", r"must have one L \(loss\), at the very end"),
        ("EtL|tL", r"must have one L \(loss\), at the very end"),
        ("Et|t", r"must have one L \(loss\), at the very end"),
        ("Et||tL", r"leaves stage 2 of 3 empty; give it a layer, or leave out the \| beside it"),
        ("Et*9999L", "stands for more than 2048 layers"),
        ("E(t*9999|)*9999L", "stands for more than 2048 layers"),
        (["E", *["t*2048"] * 9, "L"], "stands for more than 2048 layers"),
    ],
)
def test_no_layouts_of_stages(given: object, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        ParallelConfig.model_validate({"pipeline_model_parallel_layout": given})


def test_the_chunks_of_a_rank_follow_from_the_layout() -> None:
    values = {"pipeline_model_parallel_size": 2, "pipeline_model_parallel_layout": "E|t|t|tL"}
    assert ParallelConfig.model_validate(values).num_model_chunks == 2
    assert ParallelConfig.model_validate({**values, "pipeline_model_parallel_layout": "Et|tL"}).num_model_chunks == 1
    assert ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=3).num_model_chunks == 3


NEEDS_STAGES = "needs pipeline_model_parallel_size greater than 1; set it, or leave this out"
REFUSED = [
    ((f"{LAYOUT}=Et|tL",), f"{LAYOUT}: {NEEDS_STAGES}"),
    (
        ("parallel.account_for_loss_in_pipeline_split=true",),
        f"parallel.account_for_loss_in_pipeline_split: {NEEDS_STAGES}",
    ),
    (
        (
            PP2,
            "parallel.account_for_embedding_in_pipeline_split=true",
            "parallel.num_layers_in_last_pipeline_stage=1",
        ),
        "parallel.account_for_embedding_in_pipeline_split: cannot be combined with num_layers_in_last_pipeline_stage; "
        "remove one of them",
    ),
    (
        (PP2, f"{LAYOUT}=Et|tL", "parallel.num_layers_in_first_pipeline_stage=1"),
        f"{LAYOUT}: says how many layers every stage has; remove it, or num_layers_in_first_pipeline_stage",
    ),
    (
        (PP2, f"{LAYOUT}=Et|tL", "parallel.account_for_loss_in_pipeline_split=true"),
        f"{LAYOUT}: says how many layers every stage has; remove it, or account_for_loss_in_pipeline_split",
    ),
    (
        (PP2, f"{LAYOUT}=Et|t|L"),
        f"{LAYOUT}: has 3 stages, which is not a multiple of pipeline_model_parallel_size 2; give 2 or 4",
    ),
    (
        (PP2, f"{LAYOUT}=E|t|t|L", "parallel.virtual_pipeline_model_parallel_size=3"),
        f"{LAYOUT}: has 4 stages, 2 on each of 2 ranks, but virtual_pipeline_model_parallel_size is 3; leave that out, "
        "or give 6 stages",
    ),
    ((PP2, f"{LAYOUT}=Et|ttL"), f"{LAYOUT}: has 3 layers (t), but num_layers is 2; give each one"),
    (
        ("parallel.recompute=none", "parallel.recompute_granularity=full"),
        "parallel.recompute: is another spelling of recompute_granularity, which says full, not none; remove it",
    ),
    (
        (f"{MODULES}=[mlp]",),
        f"{MODULES}: has no effect without recompute_granularity selective; give that, or remove this",
    ),
    (
        ("parallel.recompute=full", f"{MODULES}=[mlp]"),
        f"{MODULES}: has no effect without recompute_granularity selective; give that, or remove this",
    ),
    (
        (SELECTIVE, "parallel.recompute_method=block"),
        "parallel.recompute_method: has no effect without recompute_granularity full; give that, or remove this",
    ),
    (
        ("parallel.recompute_num_layers=2",),
        "parallel.recompute_num_layers: has no effect without recompute_granularity full; give that, or remove this",
    ),
    (
        (SELECTIVE, f"{MODULES}=[mlp, mla_up_proj]"),
        f"{MODULES}.1: mla_up_proj has no effect without multi_latent_attention; remove it",
    ),
    *(
        (
            (SELECTIVE, f"{MODULES}=[mlp, {name}]", *LATENT),
            f"{MODULES}.1: {name} is not recomputed alone with multi_latent_attention; remove it, or take "
            "recompute_granularity full",
        )
        for name in ("mla_up_proj", "core_attn")
    ),
    ((SELECTIVE, f"{MODULES}=[moe]"), f"{MODULES}.0: moe has no effect without num_moe_experts; remove it"),
    ((SELECTIVE, f"{MODULES}=[moe_act]"), f"{MODULES}.0: moe_act has no effect without num_moe_experts; remove it"),
    (
        (*MOE, f"{MODULES}=[shared_experts]"),
        f"{MODULES}.0: shared_experts has no effect without moe_shared_expert_intermediate_size; remove it",
    ),
    (
        (*MOE, f"{MODULES}=[moe, moe_act]"),
        f"{MODULES}.1: moe_act has no effect beside moe, which is more; remove it",
    ),
    (
        (*MOE, "model.moe_layer_freq=1", f"{MODULES}=[mlp]"),
        f"{MODULES}.0: mlp has no effect where every layer has experts; take moe",
    ),
    (
        (*MOE, "model.moe_layer_freq=1", f"{MODULES}=[mlp_act]"),
        f"{MODULES}.0: mlp_act has no effect: every activation of an MLP is recomputed with it, or there is none; "
        "remove it",
    ),
    (
        (SELECTIVE, f"{MODULES}=[mlp, mlp_act]"),
        f"{MODULES}.1: mlp_act has no effect: every activation of an MLP is recomputed with it, or there is none; "
        "remove it",
    ),
    (
        (SELECTIVE, f"{MODULES}=[layernorm]", "model.norm_placement=behind"),
        f"{MODULES}.0: layernorm has no effect with norm_placement behind: nothing keeps what such norms give; "
        "remove it",
    ),
    (
        (SELECTIVE, f"{MODULES}=[mlp]", "precision.fp8=hybrid"),
        f"{MODULES}.0: mlp is not recomputed alone with precision.fp8; remove it, or take recompute_granularity full",
    ),
    (
        ("phases.0.parallel={recompute_num_layers: 2}",),
        "phases.0.parallel.recompute_num_layers: has no effect without recompute_granularity full; give that, or "
        "remove this",
    ),
    (
        ("phases.0.parallel={pipeline_model_parallel_size: 2, pipeline_model_parallel_layout: [Et, L]}",),
        "phases.0.parallel.pipeline_model_parallel_layout: has 1 layers (t), but num_layers is 2; give each one",
    ),
]


@pytest.mark.parametrize(("overrides", "text"), REFUSED)
def test_what_does_not_fit_is_refused(overrides: tuple[str, ...], text: str) -> None:
    assert problems(*overrides) == [text]


@pytest.mark.parametrize(
    "overrides",
    [
        (PP2, f"{LAYOUT}=E|t|t|L"),
        (PP2, f"{LAYOUT}=E|t|t|L", "parallel.virtual_pipeline_model_parallel_size=2"),
        (PP2, "parallel.account_for_embedding_in_pipeline_split=true"),
        ("parallel.recompute=full", "parallel.recompute_method=block", "parallel.recompute_num_layers=2"),
        ("parallel.recompute=selective", SELECTIVE, f"{MODULES}=[core_attn, layernorm, mlp]"),
        (*MOE, "model.moe_shared_expert_intermediate_size=32", f"{MODULES}=[mlp, mlp_act, moe_act, core_attn]"),
        (*MOE, "model.moe_shared_expert_intermediate_size=32", f"{MODULES}=[shared_experts, moe_act, mlp_act]"),
        (*MOE, f"{MODULES}=[moe, mlp]"),
        # Named by nobody, the cheap ones do not have to fit.
        (SELECTIVE, "model.norm_placement=behind"),
    ],
)
def test_what_fits_is_allowed(overrides: tuple[str, ...]) -> None:
    assert problems(*overrides) == []
    config = configured(*overrides)
    assert Config.model_validate(parse_file_text(dump_config(config), "dumped.yaml").value) == config


def test_both_spellings_of_recomputation_mean_the_same() -> None:
    for kind in ("none", "selective", "full"):
        assert configured(f"parallel.recompute={kind}").parallel.recomputation == kind
    assert configured().parallel.recomputation == "none"
    assert configured(SELECTIVE).parallel.recomputation == "selective"
    assert configured(SELECTIVE).parallel.recomputed_modules == CHEAP_MODULES
    assert configured(SELECTIVE, f"{MODULES}=[mlp]").parallel.recomputed_modules == {"mlp"}
    assert not configured("parallel.recompute=full").parallel.recomputed_modules
