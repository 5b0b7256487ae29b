"""A version to come has one option of the model and one of the data more than this one: runs go on in both directions.

The version is a copy of this one with four lines added, which trains in processes of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from old_run import EXPECTED, OldRun, expect_steps
from process_runs import REPOSITORY

pytestmark = pytest.mark.slow

MODEL_OPTION = "    embedding_multiplier: PositiveFloat | None = None\n"
CHANNEL_OPTION = "    least_tokens: Annotated[int, Field(ge=0)] = 0\n"
RULE_OPTION = "    least_tokens: int = 0\n"
RULE_USE = "        least_tokens=channel.least_tokens,\n"


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the package of the version to come."""
    folder = tmp_path_factory.mktemp("later")
    shutil.copytree(REPOSITORY / "harness", folder / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    schema, recipe = folder / "harness/config/schema.py", folder / "harness/data/order/recipe.py"
    insert(folder / "harness/config/model.py", "    z_loss_coefficient:", MODEL_OPTION)
    insert(schema, "    epoch_decay:", CHANNEL_OPTION)
    insert(recipe, "    window_parts: int = 1", RULE_OPTION)
    insert(recipe, "        packing=channel.packing", RULE_USE)
    return folder


def insert(path: Path, before: str, line: str) -> None:
    text = path.read_text()
    assert text.count(before) == 1, f"{path}: {before}"
    path.write_text(text.replace(before, line + before))


def test_a_run_goes_on_to_a_version_with_more_options_and_back(tmp_path: Path, later: Path) -> None:
    run = OldRun(tmp_path)
    num_before = len(run.steps())
    assert "embedding_multiplier" not in run.model_of("step_0000014")
    assert run.model_of("step_0000014")["norm_epsilon"] == 1e-5  # written out, as it was done then
    run.train("16", package=later)
    assert set(run.model_of("step_0000016")) == {
        *("num_layers", "hidden_size", "num_attention_heads", "num_query_groups", "ffn_hidden_size", "vocab_size"),
        *("vocab_size_multiple_of", "qk_layernorm", "rope_scaling"),
    }
    run.train("18")
    run.train("20", package=later)
    run.train("null")
    expect_steps(run.steps()[num_before:], EXPECTED["resumed"])


def test_options_in_use_are_refused_where_they_were_not_and_the_other_way_round(tmp_path: Path, later: Path) -> None:
    run = OldRun(tmp_path)
    use = ("--set", "model.embedding_multiplier=0.5", "--set", "data.channels.en.least_tokens=3")
    head = "The checkpoint does not belong to this configuration:\n"
    text = run.train("16", *use, package=later, code=65)
    assert (
        f"""{head}  model.embedding_multiplier: checkpoint null, now 0.5
  data.rules.en.least_tokens: checkpoint 0, now 3
"""
        in text
    )
    run.train("2", "--resume", "never", *use, package=later)
    text = run.train("3", package=later, code=65)
    assert (
        f"""{head}  model.embedding_multiplier: checkpoint 0.5, now null
  data.rules.en.least_tokens: checkpoint 3, now 0
"""
        in text
    )
    text = run.train("3", code=65)
    assert (
        f"""{head}  model.embedding_multiplier: checkpoint 0.5, now absent
  data.rules.en.least_tokens: checkpoint 3, now absent
"""
        in text
    )


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("model.norm_epsilon=1e-6", "model.norm_epsilon: checkpoint 1e-05, now 1e-06"),
        ("model.qk_layernorm=false", "model.qk_layernorm: checkpoint true, now false"),
        ("model.rope_scaling.high_freq_factor=3", "model.rope_scaling.high_freq_factor: checkpoint 4.0, now 3.0"),
        ("data.channels.en.window_parts=4", "data.rules.en.window_parts: checkpoint 8, now 4"),
        ("data.channels.en.max_epochs=9", "data.rules.en.max_epochs: checkpoint null, now 9"),
    ],
)
def test_what_differs_from_a_checkpoint_of_before_is_named_as_before(tmp_path: Path, setting: str, line: str) -> None:
    text = OldRun(tmp_path).train("16", "--set", setting, code=65)
    assert f"The checkpoint does not belong to this configuration:\n  {line}\nGive the configuration" in text
