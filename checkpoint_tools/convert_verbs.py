"""The `harness convert` commands."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.errors import EXIT_BAD_DATA, CheckpointError, UsageError
from harness.finite_range import FiniteRange
from harness.limits import MOST_EXPERTS, MOST_FLOAT, MOST_LAYERS, MOST_THREADS, MOST_VOCABULARY
from harness.run.checkpoints.key_option import require_signed, signature_key_option
from harness.run.paths import RunDir
from harness.say import say

if TYPE_CHECKING:
    from checkpoint_tools.to_hf import Converted

_FORMATS = ("fp32", "bf16", "fp16")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *(MB|GB)")
_KIND = re.compile(r"^(optimizer)\..*|(?<=\.)[0-9]+(?=\.)")
_PATH = click.Path(path_type=Path)
_EXISTING = click.Path(exists=True, path_type=Path)


@click.group()
def convert() -> None:
    """Convert to Hugging Face and back, with a proof.

    \b
    Example:
      harness convert to-hf runs/tiny/checkpoints/step_0000300 exported/tiny
    """


@convert.command(name="to-hf")
@click.argument("checkpoint", type=_EXISTING)
@click.argument("out", type=_PATH)
@click.option(
    "--family", help="Write this family. Default: the first that can express the model, llama before all others."
)
@click.option("--dtype", type=click.Choice(_FORMATS), help="Number format to write. Default: the checkpoint's.")
@click.option("--max-shard-size", default="5GB", show_default=True, help="Size of a file, such as 500MB or 5GB.")
@click.option("--tokenizer", type=_PATH, help="Tokenizer to put beside the weights. Default: the checkpoint's.")
@click.option("--without-tokenizer", is_flag=True, help="Write no tokenizer.")
@click.option("--without-mtp", is_flag=True, help="Leave the modules that predict further tokens out.")
@click.option("--hashes/--no-hashes", default=True, show_default=True, help="Verify the content of every file first.")
@click.option(
    "--workers", type=click.IntRange(1, MOST_THREADS), default=4, show_default=True, help="Files written at once."
)
@click.option("--proof-layers", type=click.IntRange(1, MOST_LAYERS), help="Compare the first so many layers only.")
@click.option("--sample", metavar="PROMPT", help="Let the converted model write on after PROMPT, at the end.")
@signature_key_option
def to_hf(
    checkpoint: Path,
    out: Path,
    sample: str | None,
    key_file: Path | None,
    **options: Any,  # noqa: ANN401
) -> None:
    """Convert CHECKPOINT, or the newest sound one of a run directory, into a Hugging Face model's folder OUT.

    Everything comes from the checkpoint, wherever it lies: the architecture, the tokenizer's files, and the settings of
    the Hugging Face model with which training began. OUT appears only after the proof: each tensor written once, shapes
    as transformers wants them, logits through megatron-core and transformers equal in fp32, and every value equal to
    its source. An interrupted conversion continues where it was.

    \b
    Examples:
      harness convert to-hf runs/tiny/checkpoints/step_0000300 exported/tiny
      harness convert to-hf runs/7b exported/7b --dtype bf16 --max-shard-size 5GB
    """
    _require_consistent(sample, options["tokenizer"], without_tokenizer=options["without_tokenizer"])
    from checkpoint_tools.number_formats import OPTIONS
    from checkpoint_tools.to_hf import ToHf
    from checkpoint_tools.to_hf import convert as run
    from harness.progress import shown

    if RunDir(checkpoint).checkpoints.is_dir():
        checkpoint = _newest_in(RunDir(checkpoint), key_file, deep=options["hashes"])
        options["hashes"] = False  # it was verified a moment ago
    else:
        require_signed([checkpoint], key_file)
    dtype, size, workers = (options.pop(name) for name in ("dtype", "max_shard_size", "workers"))
    job = ToHf(
        checkpoint=checkpoint,
        out=out,
        dtype=OPTIONS[dtype] if dtype else None,
        max_shard_bytes=_bytes(size),
        num_workers=workers,
        **options,
    )
    _report(run(job, shown))
    if sample is not None:
        from checkpoint_tools.sample import write_line

        say(f"it writes: {write_line(out, sample)}")


@convert.command(name="from-hf")
@click.argument("model", type=_EXISTING)
@click.argument("out", type=_PATH)
@click.option(
    "--workers", type=click.IntRange(1, MOST_THREADS), default=4, show_default=True, help="Files written at once."
)
@click.option("--proof-layers", type=click.IntRange(1, MOST_LAYERS), help="Compare the first so many layers only.")
@click.option(
    "--expand-layers", metavar="N,N…", help="Follow each of these layers (from 0) by a copy that adds nothing yet."
)
@click.option(
    "--vocab-size", type=click.IntRange(1, MOST_VOCABULARY), help="Add rows to the vocabulary up to this size."
)
@click.option("--experts", type=click.IntRange(2, MOST_EXPERTS), help="Make each MLP this many experts, copies of it.")
@click.option(
    "--experts-per-token",
    type=click.IntRange(1, MOST_EXPERTS),
    default=2,
    show_default=True,
    help="Experts that compute a token, with --experts.",
)
@click.option("--tokenizer", type=_PATH, help="Go on with this one, which grew from the model's own.")
def from_hf(  # noqa: PLR0913 (one argument per option)
    model: Path,
    out: Path,
    workers: int,
    proof_layers: int | None,
    expand_layers: str | None,
    vocab_size: int | None,
    experts: int | None,
    experts_per_token: int,
    tokenizer: Path | None,
) -> None:
    """Convert the Hugging Face model in the folder MODEL into a run directory OUT, to continue its training.

    The architecture comes from config.json; an unknown feature is refused by name, and keys that change nothing are
    passed over and told. Only safetensors are read, and no code of the folder is run. OUT appears only after the proof.
    An interrupted conversion continues where it was.

    \b
    Example:
      harness convert from-hf models/Qwen2.5-7B runs/continued
      harness train runs/continued/continued.yaml --run-dir runs/continued --resume must
    between which you write data, length and learning rate into runs/continued/continued.yaml.

    A model may grow on the way: --expand-layers copies blocks with output projections of zero, --vocab-size adds rows
    that are the mean of the others, --experts makes a mixture of copies of each MLP (upcycling). All leave the function
    as it is. With more rows the tokenizer may grow too
    (harness data extend-tokenizer): name it, and it is held against the model's own, whose ids it must keep.

    \b
    Examples:
      harness convert from-hf models/Qwen2.5-7B runs/larger --expand-layers 6,13,20,27
      harness convert from-hf models/Qwen2.5-7B runs/terms --vocab-size 160000 --tokenizer extended.json
      harness convert from-hf models/Llama-3.2-1B runs/mixture --experts 8
    """
    from checkpoint_tools.from_hf import convert as run
    from checkpoint_tools.growth import Growth
    from checkpoint_tools.starter_config import STARTER_NAME, commands
    from harness.config.scalars import PLACEHOLDER
    from harness.progress import shown

    growth = Growth(
        copied_layers=_numbers(expand_layers or ""),
        vocab_size=vocab_size,
        num_experts=experts,
        experts_per_token=experts_per_token,
    )
    found = run(model, out, shown, growth=growth, tokenizer=tokenizer, num_workers=workers, proof_layers=proof_layers)
    _report(found)
    config, (plan, train) = shlex.quote(str(out / STARTER_NAME)), commands(out)
    say(f"to go on, write a value in place of each {PLACEHOLDER} in {config}; then:\n  {plan}\n  {train}")


@convert.command()
@click.argument("model", type=_EXISTING)
@click.argument("out", type=_PATH)
@click.option(
    "--dtype",
    type=click.Choice(("bf16", "fp32")),
    default="bf16",
    show_default=True,
    help="Number format of what was quantized.",
)
def dequantize(model: Path, out: Path, dtype: str) -> None:
    """Write the Hugging Face model in the folder MODEL without its fp8 quantization into a new folder OUT.

    Known are weights in fp8 (e4m3) with a scale for each block (weight_scale_inv), as DeepSeek publishes V3 and R1. The
    memory of one tensor is enough. What was written stays after an interruption, and the same command goes on.

    \b
    Example:
      harness convert dequantize models/DeepSeek-V3-Base models/DeepSeek-V3-Base-bf16
      harness convert from-hf models/DeepSeek-V3-Base-bf16 runs/continued
    """
    from checkpoint_tools.dequantize import dequantize as run
    from checkpoint_tools.number_formats import OPTIONS
    from harness.progress import shown, speed_text

    done = run(model, out, shown, dtype=OPTIONS[dtype])
    speed = speed_text(max(0, done.num_bytes - done.kept_bytes), done.seconds)
    say(
        f"{done.out}: {done.num_tensors} tensors, {done.num_dequantized} of them dequantized, "
        f"{done.num_bytes / 1e9:.3f} GB ({speed})"
    )


@convert.command()
@click.argument("checkpoints", nargs=-1, required=True, type=_EXISTING)
@click.argument("out", type=_PATH)
@click.option("--hashes/--no-hashes", default=True, show_default=True, help="Verify the content of every file first.")
@signature_key_option
def average(checkpoints: tuple[Path, ...], out: Path, hashes: bool, key_file: Path | None) -> None:
    """Write the mean of several CHECKPOINTS of one model into a run directory OUT.

    \b
    Example:
      harness convert average runs/7b/checkpoints/step_0098000 runs/7b/checkpoints/step_0100000 runs/mean
      harness convert to-hf runs/mean exported/mean
    """
    from checkpoint_tools.average import average as run
    from harness.progress import shown

    require_signed(checkpoints, key_file)
    done = run(checkpoints, out, shown, hashes=hashes)
    say(f"mean of {len(checkpoints)} checkpoints: {done.checkpoint}")
    for warning in done.warnings:
        say(f"warning: {warning}", err=True)


@convert.command()
@click.argument("a", type=_EXISTING)
@click.argument("b", type=_EXISTING)
@click.option(
    "--tolerance", type=FiniteRange(0, MOST_FLOAT), default=0.0, show_default=True, help="Largest difference."
)
@signature_key_option
def check(a: Path, b: Path, tolerance: float, key_file: Path | None) -> int:
    """Compare two models tensor by tensor; each is a checkpoint or a Hugging Face model's folder.

    A model that was written in another format (to-hf --dtype bf16) is the same if the other one, rounded to that, has
    every bit of it; the last line says how many tensors were rounded. Exits with 0 if they are the same, with 65 if
    they differ.

    \b
    Example:
      harness convert check runs/tiny/checkpoints/step_0000300 exported/tiny
    """
    from checkpoint_tools.compare_models import compare, open_either
    from harness.run.checkpoints.manifest import MANIFEST_NAME

    require_signed((path for path in (a, b) if (path / MANIFEST_NAME).exists()), key_file)
    one, other = open_either(a), open_either(b)
    found = compare(one, other, tolerance=tolerance, may_round=True)
    for difference in found.differences:
        say(f"{difference.name}: {difference.what}")
    say(f"{len(one.names)} tensors compared{found.converted_text()}, {len(found.differences)} differences")
    return EXIT_BAD_DATA if found.differences else 0


def _newest_in(run: RunDir, key_file: Path | None, *, deep: bool) -> Path:
    """Verify the checkpoints of a run from the newest on, and return the first sound one; tell which it is.

    Raises:
        CheckpointError: The run has none.
    """
    from harness.run.checkpoints.choice import newest_sound
    from harness.run.checkpoints.key_option import key_of_run

    key = key_of_run(run, key_file)
    choice = newest_sound(run.checkpoints, deep=deep or key is not None, key=key)
    if choice.entry is None:
        told = "".join(f"\n  {path.name}: {reason}" for path, reason in choice.passed_over) or " it is empty."
        raise CheckpointError(f"There is no sound checkpoint in {run.checkpoints}:{told}")
    for path, reason in choice.passed_over:
        say(f"warning: passed over {path}: {reason}", err=True)
    say(f"{run.root}: its newest sound checkpoint is {choice.entry.path.name}")
    return choice.entry.path


def _report(done: Converted) -> None:
    from harness.progress import speed_text

    kept = (
        f", of which {done.kept_bytes / 1e9:.3f} GB were there from before an interruption" if done.kept_bytes else ""
    )
    speed = speed_text(max(0, done.num_bytes - done.kept_bytes), done.seconds)
    say(
        f"{done.out}: {done.family.architecture}, {done.num_tensors} tensors, {done.num_bytes / 1e9:.3f} GB{kept}, "
        f"in {done.seconds:.1f} s ({speed})"
    )
    if done.left_out:
        say(f"left out: {left_out_text(done.left_out)}")
    say(f"proven: {done.proof.summary()}")
    for warning in done.warnings:
        say(f"warning: {warning}", err=True)


def _require_consistent(sample: str | None, tokenizer: Path | None, *, without_tokenizer: bool) -> None:
    """Refuse options of `to-hf` that contradict each other."""
    if without_tokenizer and tokenizer is not None:
        raise UsageError(f"--without-tokenizer and --tokenizer {tokenizer} contradict each other. Give one of them.")
    if without_tokenizer and sample is not None:
        raise UsageError("--sample needs the tokenizer, which --without-tokenizer leaves out. Give one of them.")


def left_out_text(names: Sequence[str]) -> str:
    """Return the names of tensors, with a count in place of the names of optimizer tensors and of layers."""
    kinds = Counter(_KIND.sub(lambda match: "optimizer.*" if match[1] else "*", name) for name in names)
    return ", ".join(kind if count == 1 else f"{kind} ({count})" for kind, count in kinds.items())


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(
            f"--expand-layers {text!r} is not a list of layers. Write numbers with commas, such as 7,15,23."
        )
    return tuple(int(part) for part in parts)


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--max-shard-size {text!r} is not a size. Write a number with MB or GB, such as 5GB.")
    return int(float(match[1]) * {"MB": 10**6, "GB": 10**9}[match[2]])
