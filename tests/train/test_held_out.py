"""What is held out: only where a run evaluates, by tokens, and the same in plan, ledger and training, for good."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from process_runs import VOCAB_SIZE, Site, write_channel
from small_tokenizers import byte_level

from data_prep.channels.indexed_writer import PartWriter, token_dtype
from harness.config.load import load_config
from harness.config.schema import Config
from harness.plan.demand import demands
from harness.plan.plan import make_plan
from harness.run.checkpoints.entries import Checkpoint, entries_in
from harness.usage.ledger import RunLedger

EVALUATION = {"every_steps": 2, "num_samples_per_channel": 4}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.config["phases"][0]["train_steps"] = 6
    return site


def train(site: Site, *overrides: str, code: int = 0) -> str:
    found, text = site.train(*(word for each in overrides for word in ("--set", each))).finish()
    assert found == code, text
    assert "Traceback" not in text
    return text


def data_of(site: Site) -> dict[str, Any]:
    """What the newest checkpoint has of the data."""
    entry = entries_in(site.run_dir.checkpoints)[-1]
    assert isinstance(entry, Checkpoint)
    found = entry.manifest.fingerprint["data"]
    assert isinstance(found, dict)
    return found


def epochs(site: Site, overrides: tuple[str, ...] = ()) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Epochs of each channel by the plan, by the ledger, and by the last step."""
    config: Config = load_config(site.root / "config.yaml", overrides)
    planned = {demand.channel: demand.epochs or 0.0 for demand in demands(config, make_plan(config, 1))}
    ledger = RunLedger(site.run_dir.root).epochs()
    told = site.records()[-1].values
    return (
        planned,
        {name: sum(number for place, number in ledger.items() if place[0] == name) for name in planned},
        {name: told[f"data/epochs/{name}"] for name in planned},
    )


@pytest.mark.parametrize("overrides", [(), ("evaluation={every_steps: 3, held_out_share: 0.2}",)])
def test_epochs_are_one_number(site: Site, overrides: tuple[str, ...]) -> None:
    site.config["phases"][0]["train_steps"] = 60
    train(site, *overrides)
    planned, counted, told = epochs(site, overrides)
    assert counted == pytest.approx(told, rel=1e-12)
    assert planned == pytest.approx(told, rel=1e-12)


def test_skipped_samples_are_in_no_count_of_epochs(site: Site) -> None:
    train(site, "data.skip_windows=[[4, 12]]")
    planned, counted, told = epochs(site)
    assert counted == pytest.approx(told, rel=1e-12)
    assert sum(told.values()) == pytest.approx(sum(planned.values()), rel=0.1)


def test_a_run_that_evaluates_nothing_trains_on_everything(site: Site) -> None:
    assert "held out" not in train(site, "run.stop_at_step=3")
    assert (data_of(site)["held_out_share"], data_of(site)["held_out_by"]) == (0.0, "tokens")
    text = train(site, "evaluation.every_steps=2", code=65)
    assert (
        "held-out losses of en, code are asked for, but the run began without evaluation and trains on all documents. "
        "Give each of these channels a validation_path, leave evaluation.every_steps out, or start a new run."
    ) in text
    own = write_channel(site.root / "held", seed=7)
    paths = [f"data.channels.{name}.validation_path={own}" for name in ("en", "code")]
    text = train(site, "evaluation.every_steps=2", *paths)
    assert "held-out loss at step 6: " in text


def test_evaluation_that_is_switched_off_and_on_leaves_the_order(site: Site, tmp_path: Path) -> None:
    site.config["evaluation"] = EVALUATION
    other = Site(tmp_path / "other", deepcopy(site.config))
    other.config |= {name: deepcopy(site.config[name]) for name in ("phases", "evaluation")}
    train(other)
    train(site, "run.stop_at_step=2")
    train(site, "run.stop_at_step=4", "evaluation.every_steps=null")
    assert data_of(site)["held_out_share"] == 0.01
    train(site)
    assert site.losses() == other.losses()


def test_another_share_is_refused_under_way(site: Site) -> None:
    site.config["evaluation"] = EVALUATION
    train(site, "run.stop_at_step=2")
    text = train(site, "evaluation.held_out_share=0.2", code=65)
    assert "data.held_out_share: checkpoint 0.01, now 0.2" in text


def test_a_long_last_document_is_all_that_is_held_out(site: Site) -> None:
    channel = site.root / "data" / "long"
    channel.mkdir()
    writer = PartWriter(channel, 0, token_dtype(VOCAB_SIZE))
    for length in (*[20] * 200, 100):
        writer.add_document([number % VOCAB_SIZE for number in range(length)])
    writer.finish()
    site.config["data"]["channels"]["en"]["path"] = str(channel)
    site.config["evaluation"] = EVALUATION
    text = train(site)
    assert "held out, and not trained on: en 1 documents (100 tokens), code " in text
    ledger = RunLedger(site.run_dir.root)
    assert ledger.tokens_to_train_on("en", "part-00000") == 200 * 20


def words_without_bytes(path: Path) -> Path:
    """A tokenizer of whole words, which does not say what text an id stands for."""
    vocabulary = {"</s>": 0} | {f"w{number}": number for number in range(1, VOCAB_SIZE)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w1")).save(str(path))
    return path


def test_a_tokenizer_without_known_bytes_trains_and_gives_held_out_losses_in_nats(site: Site) -> None:
    tokenizer = words_without_bytes(site.root / "tokenizer.json")
    text = train(site, f"data.tokenizer={tokenizer}", "run.stop_at_step=2")
    assert "bits per byte" not in text
    evaluated = Site(site.root / "evaluated")
    evaluated.config["phases"][0]["train_steps"] = 4
    text = train(evaluated, f"data.tokenizer={tokenizer}", f"evaluation={json.dumps(EVALUATION)}")
    assert text.count("held-out losses are given in nats, and no bits per byte") == 1
    values = evaluated.records()[-1].values
    assert values["valid/lm_loss/en"] > 0
    assert "valid/bits_per_byte/en" not in values


def test_ids_beyond_the_tokenizer_stand_for_no_bytes(site: Site) -> None:
    path = site.root / "tokenizer.json"
    byte_level().save(str(path))
    size = tokenizers.Tokenizer.from_file(str(path)).get_vocab_size()
    site.config["model"]["vocab_size"] = max(size, VOCAB_SIZE) + 50
    train(site, f"data.tokenizer={path}", f"evaluation={json.dumps(EVALUATION)}")
    assert site.records()[-1].values["valid/bits_per_byte/en"] > 0
