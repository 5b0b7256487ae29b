"""A plan as people read it: on the terminal, and as `plan.txt` in the run directory."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.config.schema import Config
from harness.errors import ConfigError, UsageError
from harness.plan.choices import RULE_OF_THUMB, LayoutChoice, legal_layouts
from harness.plan.gpus import GPUS, Gpu, find_gpu
from harness.plan.layouts import layout_problems, smallest_world_size
from harness.plan.memory import GIB
from harness.plan.plan import Plan, make_plan
from harness.plan.record import choice_record, learning_rate_curve, model_record, plan_record

_DEFAULT_GPU = "h100"
_NUM_CHOICES = 5
_CURVE_WIDTH = 48
_FILE_WIDTH = 160
_BLOCKS = " ▁▂▃▄▅▆▇█"

Row = tuple[str, str]


def print_plan(config: Config, num_gpus: int | None, gpu: str | None, as_json: bool) -> None:
    """Write the plan of `config` on `num_gpus` GPUs to standard output.

    Without `num_gpus` it is the smallest number that the parallel section allows; without `gpu` an H100 is assumed.

    Raises:
        UsageError: if the GPU is not known.
        ConfigError: with all problems of the layout, after the model's size and the layouts that are legal were shown.
    """
    device = _known_gpu(gpu or _DEFAULT_GPU)
    world_size = num_gpus if num_gpus is not None else smallest_world_size(config)
    choices = legal_layouts(config, world_size, device.memory_gib)[:_NUM_CHOICES]
    problems = layout_problems(config, world_size)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    if as_json:
        console.print_json(json.dumps(_json_record(config, world_size, device, choices, problems)))
    else:
        _print_sections(console, config, world_size, device, problems)
        _print_choices(console, world_size, device, choices)
    if problems:
        raise ConfigError(problems)


def plan_text(config: Config, plan: Plan) -> str:
    """Return the plan as plain text, ending in a newline."""
    blocks = []
    for heading, rows in _sections(config, plan_record(config, plan, gpu=None), plan):
        width = max(len(label) for label, _ in rows)
        blocks.append("\n".join([heading, *(f"  {label:<{width}}  {value}" for label, value in rows)]))
    return "\n\n".join(blocks) + "\n"


def sketch(values: list[float]) -> str:
    """Draw numbers as one line of blocks, scaled to the largest."""
    top = max(values) or 1.0
    return "".join(_BLOCKS[round(value / top * (len(_BLOCKS) - 1))] for value in values)


def _known_gpu(name: str) -> Gpu:
    device = find_gpu(name)
    if device is None:
        known = ", ".join(known_gpu.label for known_gpu in GPUS)
        raise UsageError(f"GPU {name!r} is not known: use one of {known}, or the name that torch reports for it")
    return device


def _json_record(
    config: Config, world_size: int, device: Gpu, choices: list[LayoutChoice], problems: list[str]
) -> dict[str, Any]:
    alternatives = [choice_record(choice) for choice in choices]
    if problems:
        record = {"run": config.run.name, "model": model_record(config)}
    else:
        record = plan_record(config, make_plan(config, world_size), device)
    return {"legal": not problems, "problems": problems, **record, "legal_layouts": alternatives}


def _print_sections(console: Console, config: Config, world_size: int, device: Gpu, problems: list[str]) -> None:
    if problems:
        sections = [("Model", _model_rows(config, model_record(config)))]
    else:
        plan = make_plan(config, world_size)
        sections = _sections(config, plan_record(config, plan, device), plan)
    for heading, rows in sections:
        console.print(f"[bold]{heading}[/bold]", highlight=False)
        grid = Table.grid(padding=(0, 2))
        for label, value in rows:
            grid.add_row(f"  [dim]{label}[/dim]", value)
        console.print(grid)
        console.print()


def _print_choices(console: Console, world_size: int, device: Gpu, choices: list[LayoutChoice]) -> None:
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
        ("Layout", _layout_rows(config, record["layout"])),
    ]
    for index, phase in enumerate(record["phases"]):
        curve = learning_rate_curve(config, index, plan.phases[index].train_steps, _CURVE_WIDTH)
        sections.append((f"Phase {phase['name']}", _phase_rows(phase, sketch([value for _, value in curve]))))
    sections.append(("Memory on the heaviest rank (estimate)", _memory_rows(record["memory"])))
    if record["time"]:
        sections.append(("Time (estimate)", _time_rows(record["time"])))
    return sections


def _model_rows(config: Config, model: dict[str, Any]) -> list[Row]:
    padding = model["num_parameters_padded"] - model["num_parameters"]
    return [
        ("parameters", f"{model['num_parameters']:,} ({_short(model['num_parameters'])})"),
        ("embedding", f"{model['embedding']:,}" + ("" if model["output"] else ", shared with the output layer")),
        (
            "per layer",
            f"{model['per_layer']:,} x {model['num_layers']} layers "
            f"(attention {model['attention_per_layer']:,}, MLP {model['mlp_per_layer']:,})",
        ),
        (
            "vocabulary",
            f"{model['vocab_size']:,}, padded to {model['padded_vocab_size']:,} ({padding:,} padding parameters)",
        ),
        ("precision", config.precision.dtype),
    ]


def _layout_rows(config: Config, layout: dict[str, Any]) -> list[Row]:
    chunks = layout["virtual_pipeline_model_parallel_size"]
    rows = [
        (
            "ranks",
            f"{layout['world_size']} = tensor {layout['tensor_model_parallel_size']} "
            f"x pipeline {layout['pipeline_model_parallel_size']} x context {layout['context_parallel_size']} "
            f"x data {layout['data_parallel_size']}",
        ),
        ("layers per stage", " | ".join(" ".join(map(str, chunk)) for chunk in layout["layers_per_stage"])),
        ("sequence parallel", "yes" if config.parallel.sequence_parallel else "no"),
        ("recompute", config.parallel.recompute),
    ]
    if chunks > 1:
        rows.insert(1, ("virtual chunks", f"{chunks} per pipeline rank (interleaved)"))
    if layout["context_parallel_size"] > 1:
        rows.append(("note", "context parallelism needs Transformer Engine on every rank"))
    return rows


def _phase_rows(phase: dict[str, Any], curve: str) -> list[Row]:
    channels = phase["channels"].items()
    rates = ", ".join(f"{point['value']:.3g} at {point['step']:,}" for point in phase["learning_rate"])
    return [
        ("steps", f"{phase['train_steps']:,} (from step {phase['first_step']:,})"),
        ("tokens", f"{phase['train_tokens']:,} ({_short(phase['train_tokens'])})"),
        (
            "batch",
            f"{phase['global_batch_size']:,} samples x {phase['seq_length']:,} = {phase['tokens_per_step']:,} tokens "
            f"({_short(phase['tokens_per_step'])}) a step, {phase['num_microbatches']} micro-batches per rank, "
            f"pipeline bubble {phase['bubble_pct']:.0f} %",
        ),
        *(
            (f"channel {name}", f"{100 * channel['share']:.2f} % = {_short(channel['train_tokens'])} tokens")
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


def _memory_rows(memory: dict[str, Any]) -> list[Row]:
    parts = ("weights", "gradients", "optimizer", "activations", "logits")
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
    ]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB else f"{num_bytes / GIB * 1024:.1f} MiB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _short(number: int) -> str:
    """Write a large number with a unit: 6.74B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
