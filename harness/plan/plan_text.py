"""A plan as people read it: on the terminal, and as `plan.txt` in the run directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from rich.table import Table

from harness.config.model import ModelConfig
from harness.config.parallel import ParallelConfig
from harness.config.phase_settings import parallel_of
from harness.config.schema import Config
from harness.errors import ConfigError, UsageError
from harness.plan.axes import as_product
from harness.plan.choices import RULE_OF_THUMB, LayoutChoice, legal_layouts
from harness.plan.course import Row, channel_rows, course_rows, short, sketch
from harness.plan.demand import demands, limit_problems, shortage_problems
from harness.plan.gpus import GPUS, Gpu, find_gpu
from harness.plan.layouts import needed_world_sizes, phase_problems
from harness.plan.memory import GIB
from harness.plan.plan import Plan, make_plan
from harness.plan.record import ASSUMED_MFU_PCT, choice_record, learning_rate_curve, model_record, plan_record
from harness.plan.schedule_plot import draw_plan
from harness.screen import Screen
from harness.text import listed

_DEFAULT_GPU = "h100"
_NUM_CHOICES = 5
_CURVE_WIDTH = 48
_MOST_STAGES = 6
_MOST_STAGES_SHOWN = 16
"""Stages of a pipeline that have a line."""
_FILE_WIDTH = 160
_MFU_ADVICE = (
    f"{ASSUMED_MFU_PCT} % MFU is what large dense models reach; small ones reach less: give what yours does (--mfu)"
)


class Trace(Protocol):
    """Needs of the real program under a plan (see `harness.trace`)."""

    def record(self) -> list[dict[str, Any]]:
        """Return it as plain numbers under stable names."""

    def print(self, console: Screen) -> None:
        """Print it for people."""


def print_plan(  # noqa: PLR0913 (one argument per option)
    config: Config,
    num_gpus: int | None,
    gpu: str | None,
    as_json: bool,
    plot_path: Path | None = None,
    trace: Callable[[Config, Plan], Trace] | None = None,
    mfu_pct: float | None = None,
) -> None:
    """Write the plan of `config` on `num_gpus` GPUs to standard output, and draw it as a PNG if a path is given.

    Without `num_gpus` every phase has the smallest number that its layout allows; without `gpu` an H100 is assumed.
    A plan without problems is also traced, if `trace` is given. `mfu_pct` is the share of the peak for the estimate of
    time.

    Raises:
        UsageError: If the GPU is not known, or the picture cannot be drawn.
        ConfigError: With all problems of the layout and all channels with too few tokens, after everything else was
            shown.
    """
    device = _known_gpu(gpu or _DEFAULT_GPU)
    sizes = [num_gpus] * len(config.phases) if num_gpus is not None else needed_world_sizes(config)
    choices = legal_layouts(config, sizes[0], device.memory_gib)[:_NUM_CHOICES]
    problems = phase_problems(config, sizes)
    plan = None if problems else make_plan(config, sizes)
    if plan is not None:
        wanted = demands(config, plan)
        problems = [*limit_problems(config, wanted), *shortage_problems(wanted)]
    console = Screen()
    if not console.is_terminal:
        console = Screen(width=_FILE_WIDTH)
    if not as_json:
        _print_sections(console, config, plan, device, mfu_pct)
        _print_choices(console, sizes[0], device, choices)
    traced = trace(config, plan) if trace is not None and plan is not None and not problems else None
    if as_json:
        record = _json_record(config, plan, device, choices, problems, mfu_pct)
        console.print_json(json.dumps(record | ({"trace": traced.record()} if traced else {})))
    elif traced:
        traced.print(console)
    if plan is not None and plot_path is not None:
        draw_plan(config.run.name, plan, plot_path)
    if problems:
        raise ConfigError(problems)


def plan_text(config: Config, plan: Plan) -> str:
    """Return the plan as plain text, ending in a newline."""
    blocks = []
    for heading, rows in _sections(config, plan_record(config, plan, gpu=None), plan):
        width = max(len(label) for label, _ in rows)
        blocks.append("\n".join([heading, *(f"  {label:<{width}}  {value}" for label, value in rows)]))
    return "\n\n".join(blocks) + "\n"


def _known_gpu(name: str) -> Gpu:
    device = find_gpu(name)
    if device is None:
        known = ", ".join(known_gpu.label for known_gpu in GPUS)
        raise UsageError(f"GPU {name!r} is not known: use one of {known}, or the name that torch reports for it")
    return device


def _json_record(
    config: Config,
    plan: Plan | None,
    device: Gpu,
    choices: list[LayoutChoice],
    problems: list[str],
    mfu_pct: float | None,
) -> dict[str, Any]:
    alternatives = [choice_record(choice) for choice in choices]
    if plan is None:
        record = {"run": config.run.name, "model": model_record(config)}
    else:
        record = plan_record(config, plan, device, mfu_pct)
    return {"legal": not problems, "problems": problems, **record, "legal_layouts": alternatives}


def _print_sections(console: Screen, config: Config, plan: Plan | None, device: Gpu, mfu_pct: float | None) -> None:
    if plan is None:
        sections = [("Model", _model_rows(config, model_record(config)))]
    else:
        sections = _sections(config, plan_record(config, plan, device, mfu_pct), plan)
    for heading, rows in sections:
        console.print(f"[bold]{heading}[/bold]", highlight=False)
        grid = Table.grid(padding=(0, 2))
        for label, value in rows:
            grid.add_row(f"  [dim]{label}[/dim]", value)
        console.print(grid)
        console.print()


def _print_choices(console: Screen, world_size: int, device: Gpu, choices: list[LayoutChoice]) -> None:
    gpus = "1 GPU" if world_size == 1 else f"{world_size} GPUs"
    console.print(f"[bold]Legal layouts on {gpus}, best guess first[/bold]", highlight=False)
    if not choices:
        console.print("  none with even stages: change the number of GPUs, the batch or the model")
        return
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for heading in ("tensor", "pipeline", "data", "sequence parallel", "recompute", "GiB per GPU", "bubble"):
        table.add_column(heading, justify="right")
    for choice in choices:
        table.add_row(
            str(choice.layout.tensor),
            str(choice.layout.pipeline),
            str(choice.layout.data),
            "yes" if choice.sequence_parallel else "no",
            choice.recompute,
            f"{choice.memory.total_bytes / GIB:.1f}" + ("" if choice.fits else f" (does not fit {device.label})"),
            f"{100 * choice.bubble:.0f} %",
        )
    console.print(table)
    console.print(f"  [dim]rule of thumb: {RULE_OF_THUMB}[/dim]", highlight=False, soft_wrap=True)


def _sections(config: Config, record: dict[str, Any], plan: Plan) -> list[tuple[str, list[Row]]]:
    sections = [
        ("Model", _model_rows(config, record["model"])),
        ("Layout", _layout_rows(config.model, config.parallel, record["layout"])),
    ]
    if len(plan.phases) > 1:
        sections.append((f"Course of {plan.train_steps:,} steps", course_rows(plan)))
    for index, phase in enumerate(record["phases"]):
        curve = learning_rate_curve(plan.phases[index], _CURVE_WIDTH)
        rows = _phase_rows(phase, sketch([value for _, value in curve]))
        if phase["layout"] is not None:
            rows += _layout_rows(config.model, parallel_of(config, index), phase["layout"])
        sections.append((f"Phase {phase['name']}", rows))
    sections.append((f"Channels: {short(plan.train_tokens)} tokens in all", channel_rows(record)))
    sections.append(("Memory on the heaviest rank (estimate)", _memory_rows(record["memory"])))
    if record["time"]:
        sections.append(("Time (estimate)", _time_rows(record["time"])))
    if record["notes"]:
        sections.append(("Notes", [("", note) for note in record["notes"]]))
    return sections


def _expert_ranks(layout: dict[str, Any]) -> list[Row]:
    experts, each = layout["expert_model_parallel_size"], layout["expert_tensor_parallel_size"]
    if experts * each == 1:
        return []
    copies = layout["world_size"] // (layout["pipeline_model_parallel_size"] * experts * each)
    return [("of a stage", f"{experts} share the experts of a layer x {each} share each x {copies} copies")]


def _layer_rows(config: Config, model: dict[str, Any]) -> list[Row]:
    num_dense, num_expert = model["num_layers"] - model["num_expert_layers"], model["num_expert_layers"]
    attention = f"attention {model['attention_per_layer']:,}"
    rows = []
    if num_dense:
        dense = f"{attention}, MLP {model['mlp_per_layer']:,}"
        rows.append(("per layer", f"{model['per_layer']:,} x {num_dense} layers ({dense})"))
    if num_expert:
        settings = config.model
        per_layer = model["per_layer"] - (model["mlp_per_layer"] if num_dense else model["experts_per_layer"])
        experts = f"{attention}, experts {model['experts_per_layer']:,}"
        name = "per layer with experts" if num_dense else "per layer"
        rows.append((name, f"{per_layer + model['experts_per_layer']:,} x {num_expert} layers ({experts})"))
        shared = ", and shared ones" if settings.moe_shared_expert_intermediate_size else ""
        rows.append(
            (
                "experts",
                f"{settings.moe_router_topk} of {settings.num_moe_experts} compute a token{shared}: "
                f"{model['num_active_parameters']:,} active parameters ({short(model['num_active_parameters'])})",
            )
        )
    return rows


def _module_rows(config: Config, model: dict[str, Any]) -> list[Row]:
    number = config.model.num_mtp_modules
    if not number:
        return []
    words = _counted_modules(number)
    return [("further tokens", f"{model['mtp']:,} in {words} behind the layers, on the last pipeline stage")]


def _model_rows(config: Config, model: dict[str, Any]) -> list[Row]:
    padding = model["num_parameters_padded"] - model["num_parameters"]
    return [
        ("parameters", f"{model['num_parameters']:,} ({short(model['num_parameters'])})"),
        ("embedding", f"{model['embedding']:,}" + ("" if model["output"] else ", shared with the output layer")),
        *_layer_rows(config, model),
        *_module_rows(config, model),
        (
            "vocabulary",
            f"{model['vocab_size']:,}, padded to {model['padded_vocab_size']:,} ({padding:,} padding parameters)",
        ),
        ("precision", config.precision.dtype),
    ]


def _layout_rows(model: ModelConfig, parallel: ParallelConfig, layout: dict[str, Any]) -> list[Row]:
    chunks = layout["virtual_pipeline_model_parallel_size"]
    rows = [
        ("ranks", f"{layout['world_size']} = {as_product(layout)}"),
        *_expert_ranks(layout),
        ("layers per stage", " | ".join(" ".join(map(str, chunk)) for chunk in layout["layers_per_stage"])),
        *_stage_rows(layout["stages"], model.num_mtp_modules),
        ("sequence parallel", "yes" if parallel.sequence_parallel else "no"),
        ("recompute", _recompute_text(parallel)),
    ]
    if chunks > 1:
        rows.insert(1, ("virtual chunks", f"{chunks} per pipeline rank (interleaved)"))
    return rows


def _stage_rows(stages: list[dict[str, Any]], num_mtp_modules: int) -> list[Row]:
    """Return a row for each stage of a pipeline, or for those at its ends if there are many."""
    if len(stages) == 1:
        return []
    whole = sum(stage["flops_per_token"] for stage in stages)
    rows = []
    for rank, stage in enumerate(stages):
        ends = (rank == 0, "embedding"), (rank == len(stages) - 1, "loss")
        held = [*(word for is_held, word in ends if is_held), _held_layers(stage["layers"])]
        if rank == len(stages) - 1 and num_mtp_modules:
            held.append(_counted_modules(num_mtp_modules))
        rows.append(
            (
                f"stage {rank}",
                f"{_joined(held)}: {short(stage['num_parameters'])} parameters, "
                f"{_size(stage['memory_bytes'])} a rank, {100 * stage['flops_per_token'] / whole:.1f} % of the FLOPs",
            )
        )
    if len(rows) > _MOST_STAGES_SHOWN:
        rows[_MOST_STAGES_SHOWN // 2 : -_MOST_STAGES_SHOWN // 2] = [("", "…")]
    return rows


def _held_layers(chunks: list[list[int]]) -> str:
    """Return the layers of a stage, such as `layers 0-2, 23-31`."""
    if not any(chunks):
        return "no layer"
    name = "layer" if sum(map(len, chunks)) == 1 else "layers"
    return f"{name} {listed([_layers_text(chunk) for chunk in chunks if chunk])}"


def _joined(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _counted_modules(number: int) -> str:
    return "1 module" if number == 1 else f"{number} modules"


def _layers_text(layers: list[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def _recompute_text(parallel: ParallelConfig) -> str:
    if parallel.recomputation == "selective":
        return f"selective: {', '.join(sorted(parallel.recomputed_modules))}"
    if parallel.recomputation == "full" and parallel.recompute_method == "block":
        return f"full: the first {parallel.recompute_num_layers or 1} layers of every model chunk"
    together = f": {parallel.layers_of_unit} layers together" if parallel.layers_of_unit > 1 else ""
    return f"{parallel.recomputation}{together}"


def _phase_rows(phase: dict[str, Any], curve: str) -> list[Row]:
    channels = phase["channels"].items()
    rates = ", ".join(f"{point['value']:.3g} at {point['step']:,}" for point in phase["learning_rate"])
    return [
        ("steps", f"{phase['train_steps']:,} (from step {phase['first_step']:,})"),
        ("tokens", f"{phase['train_tokens']:,} ({short(phase['train_tokens'])})"),
        (
            "batch",
            f"{phase['global_batch_size']:,} samples x {phase['seq_length']:,} = {phase['tokens_per_step']:,} tokens "
            f"({short(phase['tokens_per_step'])}) a step, {phase['num_microbatches']} micro-batches per rank, "
            f"pipeline bubble {phase['bubble_pct']:.0f} %",
        ),
        *([("ramp-up", _ramp_up_text(phase["batch_sizes"]))] if len(phase["batch_sizes"]) > 1 else []),
        *([("frozen", ", ".join(phase["frozen_parameters"]))] if phase["frozen_parameters"] else []),
        *(
            (f"channel {name}", f"{100 * channel['share']:.2f} % = {short(channel['train_tokens'])} tokens")
            for name, channel in channels
        ),
        ("learning rate", rates),
        ("", curve),
        (
            "FLOPs per token",
            f"{phase['flops_per_token']:.4g} (causal; {phase['flops_per_token_full_attention']:.4g} with full "
            f"attention, {phase['hardware_flops_per_token']:.4g} executed)",
        ),
    ]


def _ramp_up_text(stages: list[dict[str, int]]) -> str:
    shown = stages if len(stages) <= _MOST_STAGES else [*stages[: _MOST_STAGES - 1], stages[-1]]
    texts = [f"{stage['value']:,} from step {stage['step']:,}" for stage in shown]
    if shown is not stages:
        texts.insert(-1, "…")
    return "samples: " + ", ".join(texts)


def _memory_rows(memory: dict[str, Any]) -> list[Row]:
    parts = ("weights", "gradients", "optimizer", "activations", "logits", "temporary")
    fits = ""
    if memory["fits"] is not None:
        fits = f", {'fits' if memory['fits'] else 'DOES NOT FIT'} {memory['gpu_memory_gib']} GiB"
    return [
        *((part, _size(memory[f"{part}_bytes"])) for part in parts),
        ("total", f"{_size(memory['total_bytes'])} on pipeline rank {memory['pipeline_rank']}{fits}"),
        ("estimate", memory["estimate_omits"]),
    ]


def _time_rows(time: dict[str, Any]) -> list[Row]:
    return [
        (
            "all phases",
            f"{_duration(time['seconds'])} on {time['gpu']} at {time['assumed_mfu_pct']} % MFU "
            f"({time['tokens_per_second_per_gpu']:,.0f} tokens/s per GPU)",
        ),
        ("assumption", f"peak {time['peak_flops'] / 1e12:g} TFLOP/s dense bf16; no restarts, evaluation or saving"),
        *([] if time["mfu_is_given"] else [("", _MFU_ADVICE)]),
    ]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB else f"{num_bytes / GIB * 1024:.1f} MiB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"
