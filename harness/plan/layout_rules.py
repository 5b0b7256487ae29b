"""The rules that a layout must keep, one function each, with the nearest legal values where one is broken.

Every function returns one message per broken rule: the problem, the given numbers, and the remedy.
"""

from __future__ import annotations

import math

from harness.config.batch_sizes import batch_sizes
from harness.config.nearest import divisors, nearest, nearest_divisors, nearest_multiples, one_of
from harness.config.schema import Config, PhaseConfig
from harness.plan.axes import COPY_AXES, as_product, fewest_ranks, given_sizes, ranks_per_copy, ranks_per_experts
from harness.plan.stages import counted_layers, layers_per_stage
from harness.text import listed

_PROMISE = "(no layer is ever dropped to make it fit)"


def legal_tensor_sizes(config: Config) -> list[int]:
    """Return the tensor-parallel sizes that divide heads, query groups, MLP and vocabulary."""
    model = config.model
    whole = math.gcd(
        model.num_attention_heads, model.query_groups, model.padded_vocab_size, *_shared_widths(config).values()
    )
    return [size for size in divisors(whole) if not _leaves_a_rank_without_tokens(config, size)]


def _shared_widths(config: Config) -> dict[str, int]:
    """Return the widths of what tensor-parallel ranks share beside attention.

    These are dense MLPs, shared experts, and projections in modules that predict further tokens.
    """
    model, widths = config.model, {}
    if model.num_mtp_modules:
        widths["hidden_size"] = model.hidden_size
    if not all(model.expert_layers):
        widths["ffn_hidden_size"] = model.ffn_hidden_size
    if model.moe_shared_expert_intermediate_size is not None:
        widths["moe_shared_expert_intermediate_size"] = model.moe_shared_expert_intermediate_size
    return widths


def _leaves_a_rank_without_tokens(config: Config, tensor_size: int) -> bool:
    """Return whether the last tensor-parallel rank would hold padded vocabulary rows only."""
    padding = config.model.padded_vocab_size - config.model.vocab_size
    return padding * tensor_size >= config.model.padded_vocab_size


def world_size_problems(config: Config, world_size: int) -> list[str]:
    """Check that the world size is tensor x pipeline x context x data."""
    copies, copy = config.parallel.data_parallel_size, ranks_per_copy(config)
    product = as_product(given_sizes(config), COPY_AXES)
    if copies is not None:
        needed = copy * copies
        if needed == world_size:
            return []
        return [
            f"world size {world_size} is not {product} x data {copies} = {needed}: "
            f"start {needed} ranks, or leave data_parallel_size out"
        ]
    if world_size > 0 and world_size % copy == 0:
        return []
    return [
        f"world size {world_size} is not a multiple of {product} = {copy}: "
        f"start {one_of(nearest_multiples(copy, world_size))} ranks, or change the parallel sizes"
    ]


def tensor_problems(config: Config) -> list[str]:
    """Check that tensor parallelism divides heads, query groups, MLP and vocabulary, every rank with a true token."""
    model, size = config.model, config.parallel.tensor_model_parallel_size
    advice = f"use {one_of(nearest(legal_tensor_sizes(config), size))}"
    numbers = {
        "num_attention_heads": model.num_attention_heads,
        **({"num_query_groups": model.num_query_groups} if model.num_query_groups else {}),
        **_shared_widths(config),
        "padded vocabulary size": model.padded_vocab_size,
    }
    problems = [
        f"{name} {number} is not divisible by tensor_model_parallel_size {size}: {advice}"
        for name, number in numbers.items()
        if number % size
    ]
    if model.padded_vocab_size % size == 0 and _leaves_a_rank_without_tokens(config, size):
        problems.append(
            f"vocab_size {model.vocab_size} padded to {model.padded_vocab_size} leaves the last of "
            f"{size} tensor-parallel ranks without a single token: {advice}, or a smaller vocab_size_multiple_of"
        )
    return problems


def expert_problems(config: Config, world_size: int) -> list[str]:
    """Check that ranks share experts evenly, that they divide each, and that every expert is on some rank."""
    model, parallel = config.model, config.parallel
    sizes = given_sizes(config)
    experts, each = sizes["expert_model_parallel_size"], sizes["expert_tensor_parallel_size"]
    if model.num_moe_experts is None:
        given = [key for key in ("expert_model_parallel_size", "expert_tensor_parallel_size") if sizes[key] > 1]
        return [f"{key} {sizes[key]} needs model.num_moe_experts: give that, or leave this out" for key in given]
    problems = []
    if model.num_moe_experts % experts:
        problems.append(
            f"num_moe_experts {model.num_moe_experts} is not divisible by expert_model_parallel_size {experts}: use "
            f"{one_of(nearest_divisors(model.num_moe_experts, experts))}"
        )
    if model.expert_width % each:
        problems.append(
            f"moe_ffn_hidden_size {model.expert_width} is not divisible by expert_tensor_parallel_size {each}: use "
            f"{one_of(nearest_divisors(model.expert_width, each))}"
        )
    if model.add_bias_linear and model.hidden_size % each:
        problems.append(
            f"hidden_size {model.hidden_size} is not divisible by expert_tensor_parallel_size {each}, whose ranks "
            f"share the biases of experts: use {one_of(nearest_divisors(model.hidden_size, each))}"
        )
    tensor = parallel.tensor_model_parallel_size
    if tensor > 1 and not parallel.sequence_parallel:
        problems.append(
            f"experts with tensor_model_parallel_size {tensor} need sequence_parallel: true, or every rank of the "
            "group would send the same tokens to them"
        )
    return problems + _shared_out_problems(config, world_size)


def _shared_out_problems(config: Config, world_size: int) -> list[str]:
    """Check that the ranks of a pipeline stage hold whole copies of its experts."""
    num_stages, needed = config.parallel.pipeline_model_parallel_size, ranks_per_experts(config)
    if world_size % num_stages or world_size % ranks_per_copy(config) or world_size // num_stages % needed == 0:
        return []
    stage, sizes = world_size // num_stages, given_sizes(config)
    experts, each = sizes["expert_model_parallel_size"], sizes["expert_tensor_parallel_size"]
    legal = [size for size in divisors(config.model.num_moe_experts or 1) if stage % (size * each) == 0]
    advice = f"use expert_model_parallel_size {one_of(nearest(legal, experts))}, or " if legal else ""
    return [
        f"{stage} ranks of a pipeline stage cannot hold whole copies of the experts, which take "
        f"expert_model_parallel_size {experts} x expert_tensor_parallel_size {each} = {needed} ranks: {advice}"
        f"start {one_of(nearest_multiples(fewest_ranks(config), world_size))} ranks"
    ]


def pipeline_problems(config: Config) -> list[str]:
    """Check that every pipeline stage and chunk gets the same number of layers, unless uneven ones are asked for."""
    parallel = config.parallel
    if parallel.pipeline_model_parallel_layout is not None:
        return []  # says each stage, and was held against the number of layers when it was read
    num_chunks = parallel.num_model_chunks
    uneven = parallel.num_layers_in_first_pipeline_stage or parallel.num_layers_in_last_pipeline_stage
    if uneven and num_chunks > 1:
        return [
            f"virtual_pipeline_model_parallel_size {num_chunks} cannot be combined with uneven stages "
            "(num_layers_in_first/last_pipeline_stage): leave one of them out, or give pipeline_model_parallel_layout"
        ]
    return _uneven_stage_problems(config) if uneven else _even_stage_problems(config)


def _even_stage_problems(config: Config) -> list[str]:
    parallel, num_layers = config.parallel, counted_layers(config)
    num_stages, num_chunks = parallel.pipeline_model_parallel_size, parallel.num_model_chunks
    if num_layers % (num_stages * num_chunks) == 0:
        return []
    words = f"num_layers {config.model.num_layers}"
    if num_layers != config.model.num_layers:
        ends = ("embedding",) * parallel.account_for_embedding_in_pipeline_split
        ends += ("loss",) * parallel.account_for_loss_in_pipeline_split
        words += f" and {' and '.join(ends)}, which count as one each: {num_layers}"
    if num_layers % num_stages == 0:
        legal = nearest_divisors(num_layers // num_stages, num_chunks)
        return [
            f"{words} is not divisible by pipeline_model_parallel_size {num_stages} x "
            f"virtual_pipeline_model_parallel_size {num_chunks} = {num_stages * num_chunks}: use {one_of(legal)} "
            f"virtual chunks, or pipeline_model_parallel_layout {_PROMISE}"
        ]
    return [
        f"{words} is not divisible by pipeline_model_parallel_size {num_stages}: "
        f"use {one_of(nearest_divisors(num_layers, num_stages))} stages, or pipeline_model_parallel_layout {_PROMISE}"
    ]


def recompute_problems(config: Config) -> list[str]:
    """Check `recompute_num_layers`.

    With `uniform` it must divide the layers of every model chunk, with `block` some chunk must have so many.
    """
    parallel, number = config.parallel, config.parallel.recompute_num_layers or 1
    if parallel.recomputation != "full" or number == 1 or pipeline_problems(config):
        return []
    sizes = sorted({size for chunk in layers_per_stage(config) for size in chunk if size})
    given = f"recompute_num_layers {number}"
    if parallel.recompute_method == "block":
        most = f"model chunks have at most {sizes[-1]} layers: use at most as many"
        return [f"{given} is more than there are: {most}"] if number > sizes[-1] else []
    if not any(size % number for size in sizes):
        return []
    legal = nearest_divisors(math.gcd(*sizes), number)
    return [
        f"{given} does not divide the layers of every model chunk ({listed(sizes)}), which recompute_method uniform "
        f"recomputes in units of so many: use {one_of(legal)}, or recompute_method block"
    ]


def _uneven_stage_problems(config: Config) -> list[str]:
    parallel, num_layers = config.parallel, config.model.num_layers
    first, last = parallel.num_layers_in_first_pipeline_stage, parallel.num_layers_in_last_pipeline_stage
    num_even = parallel.pipeline_model_parallel_size - (first is not None) - (last is not None)
    num_left = num_layers - (first or 0) - (last or 0)
    if _shares_out(num_left, num_even):
        return []
    # Where both ends are given, the first is kept and the last is what has to change.
    name, given, kept = ("last", last, first or 0) if last is not None else ("first", first or 0, 0)
    legal = [size for size in range(1, num_layers) if _shares_out(num_layers - kept - size, num_even)]
    stated = " and ".join(f"{size} in the {end} stage" for end, size in (("first", first), ("last", last)) if size)
    advice = (
        f"num_layers_in_{name}_pipeline_stage {one_of(nearest(legal, given))}"
        if legal
        else "smaller ends or fewer stages"
    )
    return [
        f"num_layers {num_layers} with {stated} leaves {num_left} layers for {num_even} other stages, "
        f"which cannot be shared out evenly: use {advice} {_PROMISE}"
    ]


def _shares_out(num_layers: int, num_stages: int) -> bool:
    """Return whether `num_layers` can be divided among `num_stages` so that each gets equally many, at least one."""
    if num_stages == 0:
        return num_layers == 0
    return num_layers > 0 and num_layers % num_stages == 0


def sequence_problems(config: Config) -> list[str]:
    """Check that the ranks that share a sequence get equal pieces of it."""
    parallel = config.parallel
    tensor, context = parallel.tensor_model_parallel_size, parallel.context_parallel_size
    # Context parallelism deals each rank two pieces of the sequence, so that causal work is even.
    rules = []
    if context > 1:
        rules.append((2 * context, f"2 x context_parallel_size {context}"))
    if parallel.sequence_parallel:
        by_context = f" x context_parallel_size {context}" if context > 1 else ""
        rules.append((tensor * context, f"tensor_model_parallel_size {tensor}{by_context} (sequence_parallel)"))
    step = math.lcm(*(divisor for divisor, _ in rules))
    return [
        f"seq_length {phase.seq_length} of phase {phase.name} is not divisible by {words}: "
        f"use {one_of(nearest_multiples(step, phase.seq_length))}"
        for phase in config.phases
        for divisor, words in rules
        if phase.seq_length % divisor
    ]


def batch_problems(config: Config, world_size: int) -> list[str]:
    """Check that all copies of the model get equally many micro-batches, interleaved ones in rounds of stages."""
    parallel = config.parallel
    copies, left_over = divmod(world_size, ranks_per_copy(config))
    data = parallel.data_parallel_size or (0 if left_over else copies)
    if data == 0:
        return []  # the world size is wrong, so the number of copies is not known
    once = parallel.micro_batch_size * data
    words = f"micro_batch_size {parallel.micro_batch_size} x data-parallel size {data} = {once}"
    num_stages = parallel.pipeline_model_parallel_size
    interleaved = parallel.num_model_chunks > 1 and num_stages > 1
    problems = []
    unit = once * num_stages if interleaved else once
    for phase in config.phases:
        size = phase.global_batch_size
        legal = one_of(nearest_multiples(unit, size))
        if size % once:
            problems.append(f"global_batch_size {size} of phase {phase.name} is not divisible by {words}: use {legal}")
        elif interleaved and size // once % num_stages:
            problems.append(
                f"global_batch_size {size} of phase {phase.name} makes {size // once} micro-batches ({words}), but the "
                f"interleaved pipeline needs a multiple of pipeline_model_parallel_size {num_stages}: use {legal}"
            )
        problems += _ramp_up_problems(phase, unit)
    return problems


def _ramp_up_problems(phase: PhaseConfig, unit: int) -> list[str]:
    """Check that every size of a ramp-up is a multiple of `unit`."""
    ramp = phase.batch_ramp_up
    if ramp is None:
        return []
    return [
        f"batch_ramp_up.{name} {given} of phase {phase.name} is not a multiple of {unit}, of which every batch is "
        f"made: use {one_of(nearest_multiples(unit, given))}"
        for name, given in (("start", ramp.start), ("increment", ramp.increment))
        if given % unit and batch_sizes(phase).smallest < phase.global_batch_size
    ]
