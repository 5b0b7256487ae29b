"""Settings that change nothing of the function: kept where they are right, told where not, and the export loads."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import conversion_jobs
import pytest
from hugging_face_models import VARIANTS, write_model
from pool import Pool

from checkpoint_tools.families.registry import FAMILIES
from checkpoint_tools.original_settings import original_settings
from checkpoint_tools.transformers_model import require_loadable
from harness.errors import CheckpointError

ROWS = 131


def write_changed(folder: Path, generation_config: bytes | None = None, **fields: Any) -> Path:
    write_model(folder, VARIANTS[0])
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation_config is not None:
        (folder / "generation_config.json").write_bytes(generation_config)
    return folder


def there_and_back(pool: Pool, given: Path, out: Path) -> tuple[str, str]:
    """Returns what either direction told beside its result."""
    told = []
    run = out.with_name("run")
    for arguments in (["from-hf", given, run], ["to-hf", run, out]):
        [left] = pool.run(conversion_jobs.command, 1, ["convert", *map(str, arguments)])
        assert left.code == 0, left.err
        told.append(left.err)
    return told[0], told[1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_dropout", "0.1"),
        ("attention_dropout", [1]),
        ("attention_dropout", float("nan")),
        ("use_cache", "yes"),
        ("use_cache", 1),
        ("pad_token_id", ROWS),
        ("pad_token_id", [2]),
        ("bos_token_id", [1]),
        ("eos_token_id", "</s>"),
        ("unk_token_id", "x"),
        ("tokenizer_class", 5),
        ("tokenizer_class", "\ud800"),
    ],
)
def test_wrong_values_are_told_and_left_out(key: str, value: object) -> None:
    found = original_settings({key: value}, None, ROWS)
    assert found.config.get(key) is None
    (warning,) = found.warnings
    assert warning.startswith(f"{key} ") and " of its config.json is not " in warning
    warning.encode()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_dropout", 0),
        ("attention_dropout", 0.1),
        ("use_cache", False),
        ("pad_token_id", ROWS - 1),
        ("pad_token_id", -1),
        ("bos_token_id", None),
        ("eos_token_id", [1, 2]),
        ("eos_token_id", 99999),
        ("tokenizer_class", "Qwen2Tokenizer"),
    ],
)
def test_right_values_stay_as_they_came(key: str, value: object) -> None:
    found = original_settings({key: value}, None, ROWS)
    assert (found.config, found.warnings) == ({key: value}, ())


def test_null_is_a_missing_key() -> None:
    nothing = dict.fromkeys(("use_cache", "attention_dropout", "tokenizer_class", "unk_token_id", "temperature"))
    assert original_settings(nothing, None, ROWS).config == {}


@pytest.mark.parametrize("content", [b"[]", b"{", b"", b"null", b"3", b"\xff", b'{"max_new_tokens": -3}', b"[" * 99999])
def test_a_generation_config_that_cannot_be_read_is_told_and_left_out(content: bytes) -> None:
    found = original_settings({}, content, ROWS)
    assert found.generation_config is None
    assert found.warnings[0].startswith("transformers cannot read its generation_config.json, which an export leaves")


def test_the_export_of_wrong_settings_loads(pool: Pool, tmp_path: Path) -> None:
    wrong = {"attention_dropout": "0.1", "use_cache": "yes", "pad_token_id": ROWS, "tokenizer_class": 5}
    given, out = write_changed(tmp_path / "given", b"[]", **wrong), tmp_path / "out"
    for told in there_and_back(pool, given, out):
        for name in (*wrong, "generation_config.json"):
            assert f"warning: {name} " in told or f"cannot read its {name}" in told
    transformers = importlib.import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert (model.config.pad_token_id, model.config.eos_token_id, model.generation_config.eos_token_id) == (None, 2, 2)


def test_settings_of_generation_go_to_their_own_file(pool: Pool, tmp_path: Path) -> None:
    """As transformers itself moves them."""
    said = {"do_sample": True, "temperature": 0.5, "top_p": 0.8}
    given, out = write_changed(tmp_path / "given", **said, max_new_tokens=-3), tmp_path / "out"
    for told in there_and_back(pool, given, out):
        assert "has settings of generation, do_sample, temperature, top_p: they change no logits, and an export" in told
        assert "max_new_tokens -3 of its config.json is refused by transformers" in told
        assert "keys that change nothing" not in told
    settings = importlib.import_module("transformers").GenerationConfig.from_pretrained(out).to_dict()
    assert {key: settings[key] for key in said} == said


def test_beside_their_own_file_they_say_nothing(pool: Pool, tmp_path: Path) -> None:
    given, out = write_changed(tmp_path / "given", b'{"top_k": 3}', temperature=0.5), tmp_path / "out"
    for told in there_and_back(pool, given, out):
        assert "transformers reads those of generation_config.json alone" in told
    assert (out / "generation_config.json").read_bytes() == b'{"top_k": 3}'


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_what_a_user_could_not_load_is_refused(tmp_path: Path, file: str) -> None:
    given = write_changed(tmp_path / "given", b"{}")
    require_loadable(given, FAMILIES["llama"])
    wrong = {**json.loads((given / file).read_text()), "use_cache": "yes", "pad_token_id": ROWS, "max_new_tokens": -1}
    (given / file).write_text(json.dumps(wrong))
    with pytest.raises(CheckpointError, match="transformers could not load the written settings"):
        require_loadable(given, FAMILIES["llama"])
