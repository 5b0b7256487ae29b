from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.config.schema import Config
from harness.parameters.table import parameter_table
from harness.plan.choices import legal_layouts, pipeline_bubble
from harness.plan.flops import peak_flops
from harness.plan.gpus import GPUS, find_gpu
from harness.plan.layouts import Layout, make_layout
from harness.plan.memory import GIB, checkpoint_bytes, estimate_memory, heaviest_rank, state_bytes
from harness.plan.parameters import count_parameters
from harness.plan.working_memory import layers_in_flight

MakeConfig = Callable[..., Config]

LLAMA_7B = {
    "num_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_query_groups": None,
    "ffn_hidden_size": 11008,
}


def layout(pipeline: int, virtual: int = 1) -> Layout:
    return Layout(tensor=1, pipeline=pipeline, virtual_pipeline=virtual, context=1, data=1)


def test_one_rank_holds_weights_gradients_and_state_of_every_parameter(make_config: MakeConfig) -> None:
    config = make_config(model=LLAMA_7B)
    parameters = count_parameters(config.model).padded_total
    (bf16,) = estimate_memory(config, make_layout(config, 1))
    assert (bf16.weights_bytes, bf16.gradients_bytes) == (2 * parameters, 4 * parameters)
    assert bf16.optimizer_bytes == 12 * parameters
    (fp32,) = estimate_memory(make_config(model=LLAMA_7B, precision="fp32"), make_layout(config, 1))
    assert (fp32.weights_bytes, fp32.gradients_bytes) == (4 * parameters, 4 * parameters)
    assert fp32.optimizer_bytes == 8 * parameters
    statistics = 4 * 2048 * (32 * (32 + 2) + 1)
    assert fp32.activations_bytes - statistics == 2 * (bf16.activations_bytes - statistics)


def test_activations_are_those_of_flash_attention(make_config: MakeConfig) -> None:
    config = make_config(model=LLAMA_7B)
    (estimate,) = estimate_memory(config, make_layout(config, 1))
    layer = 2 * (4 * 4096 + 4 * 4096 + 3 * 11008) + 4 * (32 + 2)
    final_norm = 2 * 2 * 4096 + 4
    assert estimate.activations_bytes == 2048 * (32 * layer + final_norm)
    assert estimate.logits_bytes == 2048 * 32000 * 2
    # Gradients of the output layer: of its input, and of its weight in bf16.
    assert estimate.temporary_bytes == 2 * 4096 * (2048 + 32000)


@pytest.mark.parametrize(
    ("way", "kept_besides"),
    [
        ("p2p", 0),
        ("a2a", 32 * 128),  # what heads give, in the order of tokens
        ("allgather", 32 * 128 + 2 * 32 * 128),  # and keys and values of the other rank's tokens
    ],
)
def test_the_optimizer_state_is_shared_over_data_and_context_ranks(
    way: str, kept_besides: int, make_config: MakeConfig
) -> None:
    config = make_config(model=LLAMA_7B, parallel={"context_parallel_size": 2, "cp_comm_type": way})
    one, four = (estimate_memory(config, make_layout(config, size))[0] for size in (2, 8))
    assert one.optimizer_bytes == pytest.approx(12 * count_parameters(config.model).padded_total / 2)
    assert four.optimizer_bytes == pytest.approx(one.optimizer_bytes / 4)
    alone = estimate_memory(make_config(model=LLAMA_7B), layout(1))[0]
    assert one.activations_bytes == alone.activations_bytes / 2 + 32 * 1024 * 2 * kept_besides


def test_muon_keeps_one_average_of_hidden_matrices(make_config: MakeConfig) -> None:
    """In bf16 8 bytes a number with the master weights, and 12 of embedding, output layer and norms."""
    experts = {"num_moe_experts": 8, "moe_layer_freq": [0, 1] * 16, "moe_ffn_hidden_size": 512}
    config = make_config(model=LLAMA_7B | experts, optimizer={"kind": "muon"})
    table = parameter_table(config.model)
    hidden = sum(parameter.num_true for parameter in table if parameter.is_matrix)
    others = sum(parameter.num_true for parameter in table if parameter.is_trained) - hidden
    assert others == 2 * 32000 * 4096 + (2 * 32 + 1) * 4096
    assert state_bytes(config) == 8 * hidden + 12 * others
    assert checkpoint_bytes(config) == 10 * hidden + 14 * others
    (alone,) = estimate_memory(config, make_layout(config, 1))
    padding = 12 * (count_parameters(config.model).padded_total - hidden - others)
    assert alone.optimizer_bytes == state_bytes(config) + padding
    parallel = {"tensor_model_parallel_size": 2, "sequence_parallel": True, "expert_model_parallel_size": 2}
    cut = make_config(model=LLAMA_7B | experts, parallel=parallel, optimizer={"kind": "muon"})
    (of_a_rank,) = estimate_memory(cut, make_layout(cut, 4))
    assert of_a_rank.optimizer_bytes == pytest.approx(alone.optimizer_bytes / 4, rel=0.01)


def test_sequence_parallelism_splits_all_activations(make_config: MakeConfig) -> None:
    parallel = {"tensor_model_parallel_size": 4}
    alone = estimate_memory(make_config(model=LLAMA_7B), layout(1))[0].activations_bytes
    split = make_config(model=LLAMA_7B, parallel={**parallel, "sequence_parallel": True})
    assert estimate_memory(split, make_layout(split, 4))[0].activations_bytes == alone / 4
    partly = make_config(model=LLAMA_7B, parallel=parallel)
    stream = 2048 * (32 * (2 * 4 * 4096 + 4 * 2) + 2 * 2 * 4096 + 4)
    assert estimate_memory(partly, make_layout(partly, 4))[0].activations_bytes == stream + (alone - stream) / 4


def test_full_recomputation_keeps_the_input_of_every_layer_and_one_layer(make_config: MakeConfig) -> None:
    parallel = {"recompute": "full", "pipeline_model_parallel_size": 2}
    estimate, _ = estimate_memory(make_config(model=LLAMA_7B, parallel=parallel), layout(2))
    # While the first projection of the MLP gets its gradients: what is behind it is gone.
    one_layer = 2 * (4 * 4096 + 4 * 4096) + 4 * (32 + 2)
    assert estimate.activations_bytes == 2048 * (2 * 32 * 4096 + one_layer)


@pytest.mark.parametrize(
    ("pipeline", "virtual", "sizes", "microbatches", "expected"),
    [
        (1, 1, ((32,),), 8, [32]),
        (4, 1, ((8, 8, 8, 8),), 8, [32, 24, 16, 8]),
        (4, 1, ((8, 8, 8, 8),), 2, [16, 16, 16, 8]),
        (4, 1, ((5, 9, 9, 9),), 8, [20, 27, 18, 9]),
        # Warm-up of 2 * (4 - rank - 1) + (2 - 1) * 4 chunks, and the one being computed.
        (4, 2, ((4, 4, 4, 4),) * 2, 8, [44, 36, 28, 20]),
        (4, 2, ((4, 4, 4, 4),) * 2, 4, [32, 32, 28, 20]),
        # Of the five chunks that rank 0 has in flight, three are first ones: 3 * 1 + 2 * 3.
        (2, 2, ((1, 2), (3, 4)), 8, [9, 8]),
        # Four first ones, because two second ones have gone backward: 4 * 5 + 1.
        (2, 2, ((5, 2), (1, 0)), 8, [21, 6]),
        (2, 2, ((0, 2), (3, 3)), 2, [6, 7]),
    ],
)
def test_layers_in_flight(
    pipeline: int, virtual: int, sizes: tuple[tuple[int, ...], ...], microbatches: int, expected: list[int]
) -> None:
    found = [layers_in_flight(layout(pipeline, virtual), sizes, rank, microbatches) for rank in range(pipeline)]
    assert found == expected


def test_the_layers_in_flight_of_unequal_chunks_are_those_of_the_schedule() -> None:
    """Forward and backward passes as Megatron's interleaved schedule makes them, one by one."""
    stages = ((3, 1, 2), (0, 4, 1), (2, 2, 0))
    for num_microbatches in (3, 6, 15):
        chunks = [micro for group in range(num_microbatches // 3) for micro in [*[0] * 3, *[1] * 3, *[2] * 3]]
        for rank in range(3):
            ahead = 2 * (3 - rank - 1) + 2 * 3
            passes = [("forward", chunk) for chunk in chunks[:ahead]]
            for forward, backward in zip(chunks[ahead:], chunks, strict=False):
                passes += [("forward", forward), ("backward", 2 - backward)]
            most = kept = 0
            for way, chunk in passes:
                kept += stages[chunk][rank] * (1 if way == "forward" else -1)
                most = max(most, kept)
            assert layers_in_flight(layout(3, 3), stages, rank, num_microbatches) == most


RECOMPUTED_SAVES: list[tuple[dict[str, Any], int]] = [
    ({"recompute_granularity": "selective", "recompute_modules": ["layernorm"]}, 2 * 2 * 4096),
    ({"recompute_granularity": "selective", "recompute_modules": ["mlp_act"]}, 2 * 11008),
    ({"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}, 4 * 32),
    ({"recompute_granularity": "selective", "recompute_modules": ["mlp"]}, 2 * 3 * 11008),
    ({"recompute": "selective"}, 2 * (2 * 4096 + 11008)),
]


@pytest.mark.parametrize(("parallel", "saved"), RECOMPUTED_SAVES)
def test_of_a_recomputed_module_nothing_is_kept(make_config: MakeConfig, parallel: dict[str, Any], saved: int) -> None:
    """At the peak in the output layer, where no layer is computed again."""
    plain = estimate_memory(make_config(model=LLAMA_7B), layout(1))[0].activations_bytes
    found = estimate_memory(make_config(model=LLAMA_7B, parallel=parallel), layout(1))[0].activations_bytes
    assert plain - found == 2048 * 32 * saved


def test_block_recomputation_keeps_all_of_the_other_layers(make_config: MakeConfig) -> None:
    def kept(num_layers: int | None) -> int:
        block = {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": num_layers}
        config = make_config(model=LLAMA_7B, parallel=block if num_layers else {})
        return estimate_memory(config, layout(1))[0].activations_bytes

    of_layer = 2048 * (2 * (4 * 4096 + 4 * 4096 + 3 * 11008) + 4 * (32 + 2))
    assert kept(None) - kept(8) == 8 * (of_layer - 2048 * 2 * 4096)
    assert kept(8) - kept(9) == of_layer - 2048 * 2 * 4096


def test_units_of_layers_keep_one_input_each(make_config: MakeConfig) -> None:
    parallel = {"pipeline_model_parallel_size": 2, "recompute_granularity": "full"}
    each, pairs = (
        estimate_memory(make_config(model=LLAMA_7B, parallel={**parallel, "recompute_num_layers": number}), layout(2))[
            0
        ]
        for number in (1, 2)
    )
    of_layer = 2048 * (2 * (4 * 4096 + 4 * 4096 + 3 * 11008) + 4 * (32 + 2))
    assert each.activations_bytes - pairs.activations_bytes == 2048 * 2 * 16 * 4096 - of_layer


def test_the_heaviest_rank_is_found_where_it_is(make_config: MakeConfig) -> None:
    parallel = {"pipeline_model_parallel_size": 2}
    even = make_config(model=LLAMA_7B, parallel=parallel)
    assert heaviest_rank(even, make_layout(even, 2)).pipeline_rank == 0
    large_last = make_config(model=LLAMA_7B, parallel={**parallel, "num_layers_in_first_pipeline_stage": 4})
    assert heaviest_rank(large_last, make_layout(large_last, 2)).pipeline_rank == 1
    inner = {"pipeline_model_parallel_size": 4, "pipeline_model_parallel_layout": "Et*4|t*4|t*20|t*4L"}
    large_inner = make_config(model=LLAMA_7B, parallel=inner)
    assert heaviest_rank(large_inner, make_layout(large_inner, 4)).pipeline_rank == 2


def test_the_estimate_leaves_room_for_what_it_does_not_count(make_config: MakeConfig) -> None:
    config = make_config(model=LLAMA_7B)
    memory = heaviest_rank(config, make_layout(config, 1))
    parts = memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes
    assert memory.total_bytes == parts + memory.activations_bytes + memory.logits_bytes + memory.temporary_bytes
    needed = memory.total_bytes / GIB / 0.9
    assert memory.fits(needed * 1.001)
    assert not memory.fits(needed * 0.999)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_a_gpu_is_found_by_the_name_that_torch_reports(name: str, label: str) -> None:
    gpu = find_gpu(name)
    assert gpu is not None
    assert gpu.label == label
    assert peak_flops(name) == gpu.peak_flops


def test_every_gpu_is_found_by_its_own_label() -> None:
    assert [find_gpu(gpu.label) for gpu in GPUS] == list(GPUS)


@pytest.mark.parametrize("name", ["Tesla T4", "cpu", "", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "H1000"])
def test_an_unknown_gpu_or_a_slice_of_one_has_no_peak(name: str) -> None:
    assert find_gpu(name) is None
    assert peak_flops(name) is None


def test_peaks_of_the_common_gpus() -> None:
    peaks = {"a100": 312e12, "h100": 989e12, "h100-pcie": 756e12, "h200": 989e12, "b200": 2250e12, "l40s": 362e12}
    assert {label: peak_flops(label) for label in peaks} == peaks


def test_what_fits_unsplit_is_not_split(make_config: MakeConfig) -> None:
    best = legal_layouts(make_config(), 8)[0]
    assert best.layout == Layout(tensor=1, pipeline=1, virtual_pipeline=1, context=1, data=8)
    assert best.fits
    assert not best.sequence_parallel


def test_a_model_is_split_no_more_than_its_memory_needs(make_config: MakeConfig) -> None:
    model = {**LLAMA_7B, "num_layers": 40, "hidden_size": 5120, "num_attention_heads": 40, "ffn_hidden_size": 13824}
    choices = legal_layouts(make_config(model=model), 64)
    best = choices[0]
    assert best.fits
    assert best.recompute == "none"
    assert best.layout.tensor * best.layout.pipeline == 2
    order = [(not choice.fits, choice.recompute == "full") for choice in choices]
    assert order == sorted(order)
    assert any(not choice.fits for choice in choices)
    assert all(choice.layout.world_size == 64 and choice.layout.tensor <= 8 for choice in choices)


def test_recomputation_is_offered_where_nothing_fits_without(make_config: MakeConfig) -> None:
    config = make_config(model=LLAMA_7B, phase={"seq_length": 65536, "global_batch_size": 8})
    best = legal_layouts(config, 1, memory_gib=200)[0]
    assert (best.fits, best.recompute) == (True, "full")


def test_tensor_parallelism_stays_within_a_node(make_config: MakeConfig) -> None:
    sizes = {choice.layout.tensor for choice in legal_layouts(make_config(), 16, gpus_per_node=4)}
    assert sizes == {1, 2, 4}


def test_no_legal_layout_gives_an_empty_list(make_config: MakeConfig) -> None:
    assert legal_layouts(make_config(phase={"global_batch_size": 1}), 7) == []


def test_the_bubble_of_a_pipeline() -> None:
    assert pipeline_bubble(layout(1), 8) == 0
    assert pipeline_bubble(layout(4), 9) == pytest.approx(3 / 12)
    assert pipeline_bubble(layout(4, virtual=3), 9) == pytest.approx(3 / 30)
