"""The configuration that a converted model comes with: refused by the keys to fill in, and then it runs."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import conversion_jobs
import pytest
import torch
from hugging_face_models import (
    SENTENCES,
    VARIANTS,
    VOCAB_SIZE,
    Variant,
    byte_level,
    write_internlm2,
    write_minimind,
    write_model,
    write_tokenizer,
)
from pool import Pool

from checkpoint_tools.compare_models import open_either
from checkpoint_tools.from_hf import convert
from checkpoint_tools.growth import NO_GROWTH, Growth
from checkpoint_tools.starter_config import STARTER_NAME, commands, starter_text
from checkpoint_tools.their_tensors import open_model
from harness.cli import run
from harness.config.load import load_config
from harness.config.model import ModelConfig
from harness.config.scalars import PLACEHOLDER
from harness.config.schema import Config
from harness.errors import EXIT_USAGE, ConfigError
from harness.plan.plan import make_plan
from harness.run.paths import RunDir
from harness.run.records import read_records

FILLED = {
    "path": "data/new",
    "train_tokens": "2560",
    "global_batch_size": "4",
    "learning_rate": "1e-3",
}
KEYS = ["data.channels.new.path", "phases.0.train_tokens", "phases.0.global_batch_size", "optimizer.learning_rate"]


def filled_in(text: str, **others: str) -> str:
    """The text with a value for each placeholder, by the last part of its key, and few steps."""
    for key, value in {**FILLED, **others}.items():
        text, number = re.subn(rf"\b{key}: {PLACEHOLDER}", f"{key}: {value}", text)
        assert number == 1, key
    return text.replace("warmup_steps: 100", "warmup_steps: 2")


def loaded(folder: Path, text: str) -> Config:
    path = folder / "filled.yaml"
    path.write_text(text)
    return load_config(path)


def starter(model: ModelConfig, growth: Growth = NO_GROWTH, longest: int | None = 128) -> str:
    return starter_text(model, origin="a model", tokenizer=None, longest=longest, growth=growth)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_its_model_is_that_of_the_checkpoint(tmp_path: Path, variant: Variant) -> None:
    """Every family with every feature that is converted."""
    model = open_model(write_model(tmp_path / "given", variant)).model
    text = starter(model)
    config = loaded(tmp_path, filled_in(text))
    assert config.model == model
    assert config.run.name == "a-model-continued"
    assert make_plan(config, 1).train_steps == 5
    given = importlib.import_module("yaml").safe_load(text)["model"]
    required = {name for name, field in ModelConfig.model_fields.items() if field.is_required()}
    at_default = {name for name in given if getattr(model, name) == ModelConfig.model_fields[name].default}
    assert at_default <= required, "a key at its default tells nothing"


@pytest.mark.parametrize("write", [write_internlm2, write_minimind])
def test_its_model_is_that_of_a_family_that_transformers_does_not_know(tmp_path: Path, write: object) -> None:
    assert callable(write)
    model = open_model(write(tmp_path / "given")).model
    assert loaded(tmp_path, filled_in(starter(model))).model == model


def test_it_is_refused_with_the_keys_that_are_to_be_filled_in(tmp_path: Path) -> None:
    text = starter(open_model(write_model(tmp_path / "given", VARIANTS[0])).model)
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    told = [problem.split(": ", 1)[1] for problem in caught.value.problems]
    assert told == [f"{key}: is still to be filled in; write a value in place of {PLACEHOLDER}" for key in KEYS]
    for key in FILLED:  # each alone
        with pytest.raises(ConfigError, match=rf"\.{key}: is still to be filled in"):
            loaded(tmp_path, filled_in(text).replace(f"{key}: {FILLED[key]}", f"{key}: {PLACEHOLDER}"))


@pytest.mark.parametrize(("longest", "length"), [(None, 4096), (32768, 4096), (128, 128)])
def test_samples_are_no_longer_than_the_model_is_made_for(tmp_path: Path, longest: int | None, length: int) -> None:
    model = open_model(write_model(tmp_path / "given", VARIANTS[0])).model
    text = starter(model, longest=longest)
    config = loaded(tmp_path, filled_in(text, train_tokens=str(10 * 4 * length)))
    assert config.phases[0].seq_length == length
    assert ("the model is made for at most" in text) == (longest is not None)


def test_the_copies_of_a_larger_model_can_be_trained_alone(tmp_path: Path) -> None:
    """By the line that stands there as a comment."""
    for name in ("llama-gqa", "qwen2-tied"):
        variant = next(variant for variant in VARIANTS if variant.name == name)
        model = open_model(write_model(tmp_path / name, variant)).model
        growth = Growth(copied_layers=(1, 0))
        grown = growth.grown(model)
        text = starter(grown, growth)
        assert "\n# Layers that are copies, and add nothing yet: 1, 3.\n" in text
        config = loaded(tmp_path, filled_in(text.replace("# frozen_parameters", "frozen_parameters")))
        assert config.model == grown
        layers = {pattern for pattern in config.phases[0].frozen_parameters if "layers" in pattern}
        assert layers == {"decoder.layers.0.*", "decoder.layers.2.*"}


def test_experts_that_were_made_of_one_mlp_are_balanced(tmp_path: Path) -> None:
    model = open_model(write_model(tmp_path / "given", VARIANTS[0])).model
    growth = Growth(num_experts=4)
    config = loaded(tmp_path, filled_in(starter(growth.grown(model), growth)))
    balance = {"moe_router_load_balancing_type": "aux_loss", "moe_aux_loss_coeff": 0.01}
    assert config.model == growth.grown(model).model_copy(update=balance)


@pytest.mark.parametrize(
    ("origin", "name"),
    [("_it's\nodd", "it-s-odd-continued"), ("__", "continued"), ("x" * 200, f"{'x' * 50}-continued")],
)
def test_odd_names_are_no_problem(tmp_path: Path, origin: str, name: str) -> None:
    model = open_model(write_model(tmp_path / "given", VARIANTS[0])).model
    text = starter_text(model, origin=origin, tokenizer=tmp_path / "x\ny.json", longest=None, growth=NO_GROWTH)
    config = loaded(tmp_path, filled_in(text, train_tokens="163840"))
    assert (config.run.name, config.data.tokenizer) == (name, None)
    plan, train = (shlex.split(command) for command in commands(tmp_path / "it's odd"))
    assert plan[-1] == train[2] == str(tmp_path / "it's odd" / STARTER_NAME)
    assert train[3:5] == ["--run-dir", str(tmp_path / "it's odd")]


def test_continuing_is_two_commands(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With text that is tokenized by the model's own tokenizer, and a model that grew in every way."""
    monkeypatch.chdir(tmp_path)
    given = write_model(tmp_path / "given", Variant("start", "qwen2", {"vocab_size": VOCAB_SIZE}), dtype=torch.bfloat16)
    write_tokenizer(given)
    Path("text.jsonl").write_text("".join(json.dumps({"text": text * 8}) + "\n" for text in SENTENCES))
    arguments = ["text.jsonl", "--tokenizer", "given/tokenizer.json", "--channel", "new", "--output", "data"]
    assert run(["data", "tokenize", *arguments]) == 0
    first_losses = []
    for name, growth in (("plain", []), ("grown", ["--experts", "3", "--expand-layers", "0", "--vocab-size", "500"])):
        out = tmp_path / "runs" / name
        [left] = pool.run(conversion_jobs.command, 1, ["convert", "from-hf", str(given), str(out), *growth])
        assert (left.code, left.err) == (0, "")
        train = ["train", str(out / STARTER_NAME), "--run-dir", str(out), "--resume", "must"]
        assert left.out.endswith(
            f"to go on, write a value in place of each {PLACEHOLDER} in {out / STARTER_NAME}; then:\n"
            f"  harness plan {out / STARTER_NAME}\n  harness {' '.join(train)}\n"
        )
        [left] = pool.run(conversion_jobs.command, 1, train)
        assert left.code == EXIT_USAGE
        assert all(f": {key}: is still to be filled in" in left.err for key in KEYS)
        text = (out / STARTER_NAME).read_text()
        assert f'\n  tokenizer: "{given}/tokenizer.json"\n' in text
        (out / STARTER_NAME).write_text(filled_in(text, path=f"{tmp_path}/data/new"))
        [left] = pool.run(conversion_jobs.command, 1, train)
        assert left.code == 0, left.err
        records = list(read_records(RunDir(out).metrics))
        assert [record.step for record in records] == [0, 1, 2, 3, 4, 5]
        first_losses.append(records[1].values["train/lm_loss"])
        assert open_either(RunDir(out).checkpoint(5)).names == open_either(RunDir(out).checkpoint(0)).names
    # With weights of its own a run would begin at log(420) = 6.04; what has grown computes as before.
    assert min(first_losses) > 6.5
    assert first_losses[0] == pytest.approx(first_losses[1], rel=0.02)


def test_a_tokenizer_that_grew_is_the_one_that_is_named(pool: Pool, tmp_path: Path) -> None:
    given = write_model(tmp_path / "given", Variant("start", "llama", {"vocab_size": VOCAB_SIZE}))
    write_tokenizer(given)
    tokenizer = byte_level()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save(str(tmp_path / "grown.json"))
    options = {"growth": Growth(vocab_size=VOCAB_SIZE + 1), "tokenizer": tmp_path / "grown.json"}
    [told] = pool.run(conversion_jobs.from_hf, 1, given, tmp_path / "run", options)
    assert told.startswith("proven"), told
    config = loaded(tmp_path, filled_in((tmp_path / "run" / STARTER_NAME).read_text()))
    assert config.data.tokenizer == tmp_path / "grown.json"


def test_a_tokenizer_with_more_ids_than_rows_is_left_out(pool: Pool, tmp_path: Path) -> None:
    """A run would refuse it; the conversion says how to get more rows."""
    given = write_model(tmp_path / "given", VARIANTS[0])
    write_tokenizer(given)
    [told] = pool.run(conversion_jobs.from_hf, 1, given, tmp_path / "run", {})
    assert told.startswith("proven"), told
    assert "\n  tokenizer:" not in (tmp_path / "run" / STARTER_NAME).read_text()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    given = write_model(tmp_path / "given", VARIANTS[0])
    mine = tmp_path / "run" / STARTER_NAME
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(Exception, match="exists. Name another folder, or remove it: nothing is ever overwritten"):
        convert(given, tmp_path / "run", conversion_jobs.no_display)
    assert mine.read_text() == "mine"
