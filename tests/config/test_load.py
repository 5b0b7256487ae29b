"""Reading a configuration file: what comes out, every message, and that nothing but ConfigError is ever raised."""
# ruff: noqa: E501 (a table of whole messages reads best with one message a line)

import os
import tempfile
from pathlib import Path

import pytest
from config_text import SMALL, changed
from hypothesis import example, given
from hypothesis import strategies as st

from harness.config.load import dump_config, load_config
from harness.config.schema import Config
from harness.errors import EXIT_USAGE, ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    """Problems of a file that must have some, with the folder cut off."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == EXIT_USAGE
    return [problem.replace(f"{path.parent}{os.sep}", "") for problem in caught.value.problems]


def test_values_and_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, SMALL))
    assert config.optimizer.learning_rate == 3e-4
    assert config.phases[0].blend == {"zh": 2.0, "en": 1.0}
    assert config.data.channels["en"].path == Path("data/en")
    assert config.run.seed == 1234


def test_overrides_win_in_order(tmp_path: Path) -> None:
    overrides = (
        "run.seed=5",
        "run.seed=6",
        "phases.0.seq_length=64",
        "phases.0.blend={zh: 1}",
        "checkpoint.save_every_steps=10",
        "data.channels.en.validation_path=held/en",
        "optimizer.learning_rate=1e-3",
    )
    config = load_config(write(tmp_path, SMALL), overrides)
    assert config.run.seed == 6
    assert (config.phases[0].seq_length, config.phases[0].blend) == (64, {"zh": 1.0})
    assert config.checkpoint.save_every_steps == 10
    assert config.data.channels["en"].validation_path == Path("held/en")
    assert config.optimizer.learning_rate == 1e-3


def test_an_override_finds_a_channel_with_dots_in_its_name(tmp_path: Path) -> None:
    text = changed("    en: {path: data/en}", "    en.v2: {path: data/en}").replace("en: 1", "en.v2: 1")
    config = load_config(write(tmp_path, text), ("data.channels.en.v2.path=x", "phases.0.blend.en.v2=3"))
    assert config.data.channels["en.v2"].path == Path("x")
    assert config.phases[0].blend["en.v2"] == 3.0


def test_an_override_mends_what_is_wrong_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, changed("hidden_size: 64", "hidden_size: -1"))
    assert load_config(path, ("model.hidden_size=64",)).model.hidden_size == 64


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  num_layers: 4\n", "", ["c.yaml:3:1: model.num_layers: is missing: Transformer layers in the whole model"]),
        ("optimizer:\n  learning_rate: 3e-4\n", "", ["c.yaml:1:1: optimizer: is missing: The optimizer, sharded over data-parallel ranks: AdamW, or Muon with AdamW for all but hidden matrices"]),
        ("vocab_size: 1000", "vocab_size: '1000'", ["c.yaml:8:3: model.vocab_size: must be a whole number, given the text '1000'; remove the quotes"]),
        ("vocab_size: 1000", "vocab_size: 1e3", ["c.yaml:8:3: model.vocab_size: must be a whole number, given 1000.0; write 1000"]),
        ("vocab_size: 1000", "vocab_size: 0", ["c.yaml:8:3: model.vocab_size: must be at least 1, given 0"]),
        ("vocab_size: 1000", "vocab_size: true", ["c.yaml:8:3: model.vocab_size: must be a whole number, given true"]),
        ("vocab_size: 1000", "vocab_size: [1]", ["c.yaml:8:3: model.vocab_size: must be a whole number, given a list"]),
        ("seq_length: 32", "seq_length: [32, 64]", ["c.yaml:16:5: phases.0.seq_length: must be a whole number, given a list; samples of a phase have one length: give each length a phase (docs/long_context.md shows how)"]),
        ("vocab_size: 1000", "vocab_size:", ["c.yaml:8:3: model.vocab_size: must be a whole number, given nothing"]),
        ("vocab_size: 1000", "vocab_size: 1_000", ["c.yaml:8:15: model.vocab_size: 1_000 has underscores; write 1000, or put text in quotes"]),
        ("learning_rate: 3e-4", "learning_rate: '3e-4'", ["c.yaml:20:3: optimizer.learning_rate: must be a number, given the text '3e-4'; remove the quotes"]),
        ("learning_rate: 3e-4", "learning_rate: 0", ["c.yaml:20:3: optimizer.learning_rate: must be greater than 0.0, given 0"]),
        ("learning_rate: 3e-4", "learning_rate: 1.0\n  adam_beta1: 1.0", ["c.yaml:21:3: optimizer.adam_beta1: must be less than 1.0, given 1.0"]),
        ("blend: {zh: 2, en: 1}", "blend: {zh: 2}\n    schedule: {min_learning_rate_share: 2}", ["c.yaml:19:16: phases.0.schedule.min_learning_rate_share: must be at most 1.0, given 2"]),
        ("blend: {zh: 2, en: 1}", "blend: {}", ["c.yaml:18:5: phases.0.blend: must have at least 1 entry, given an empty section"]),
        ("  name: small", "  name: 012", ["c.yaml:2:9: run.name: 012 starts with a zero, which is octal to some readers; write 12, or put text in quotes"]),
        ("  name: small", "  name: 7", ["c.yaml:2:3: run.name: must be text, given 7; put it in quotes"]),
        ("  name: small", "  name: a b", ["c.yaml:2:3: run.name: must be a name of letters, digits, '_', '-' and '.', starting with a letter or digit, given the text 'a b'"]),
        ("  name: small", "  name: " + "a" * 65, ["c.yaml:2:3: run.name: must have at most 64 characters, given the text '" + "a" * 59 + "…'"]),
        ("zh: {path: data/zh}", "zh: {path: 5}", ["c.yaml:11:10: data.channels.zh.path: must be a path, given 5; put it in quotes"]),
        ("zh: {path: data/zh}", "zh: data/zh", ["c.yaml:11:5: data.channels.zh: must be a section of keys and values, given the text 'data/zh'"]),
        ("name: small", "name: small\nprecision: {dtype: bf61}", ["c.yaml:3:13: precision.dtype: must be 'bf16' or 'fp32', given the text 'bf61'; did you mean 'bf16'?"]),
        ("name: small", "name: small\nlogging: {tensorboard: yes}", ["c.yaml:3:11: logging.tensorboard: must be true or false, given the text 'yes'"]),
        ("name: small", "name: small\nevaluation:", ["c.yaml:3:1: evaluation: must be a section of keys and values, given nothing; give its keys, or remove it"]),
        ("name: small", "name: small\nrun: {name: b}", ["c.yaml:3:1: run: given twice; the first is at c.yaml:1:1; remove one"]),
        ("name: small", "name: small\n  learning_rate: 1", ["c.yaml:3:3: run.learning_rate: unknown key; did you mean optimizer.learning_rate?"]),
        ("name: small", "name: small\n  path: x", ["c.yaml:3:3: run.path: unknown key; did you mean data.channels.<name>.path?"]),
        ("name: small", "name: small\n  sed: 1", ["c.yaml:3:3: run.sed: unknown key; did you mean 'seed'?"]),
        ("name: small", "name: small\n  lerning_rate: 1", ["c.yaml:3:3: run.lerning_rate: unknown key; did you mean optimizer.learning_rate?"]),
        ("name: small", "name: small\n  zzz: 1", ["c.yaml:3:3: run.zzz: unknown key; allowed: name, seed, stop_at_step"]),
    ],
)  # fmt: skip
def test_messages(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert problems(write(tmp_path, changed(old, new))) == expected


def test_phases_must_be_a_list(tmp_path: Path) -> None:
    text = SMALL.split("phases:")[0] + "phases: 3\noptimizer: {learning_rate: 1.0}\n"
    assert problems(write(tmp_path, text)) == ["c.yaml:13:1: phases: must be a list, given 3"]


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = changed("num_layers: 4", "num_layers: four").replace("train_steps: 100", "train_step: 100")
    found = problems(write(tmp_path, text + "paralel: {}\n"), "run.seed=x")
    assert found == [
        "c.yaml:4:3: model.num_layers: must be a whole number, given the text 'four'",
        "c.yaml:15:5: phases.0.train_step: unknown key; did you mean 'train_steps'?",
        "c.yaml:21:1: paralel: unknown key; did you mean 'parallel'?",
        "--set run.seed=x: run.seed: must be a whole number, given the text 'x'",
    ]


def test_the_fifty_first_problems_are_shown(tmp_path: Path) -> None:
    found = problems(write(tmp_path, SMALL + "".join(f"zz{n}: 1\n" for n in range(70))))
    assert len(found) == 51
    assert found[-1] == "… and 20 more"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.seed", "--set run.seed: must be KEY=VALUE, for example --set run.seed=1"),
        ("=1", "--set =1: must be KEY=VALUE, for example --set run.seed=1"),
        ("run.seed=", "--set run.seed=: has no value; write run.seed=null for none"),
        ("run..seed=1", "--set run..seed=1: the key has an empty part; write it like phases.0.seq_length"),
        ("run.name.x=1", "--set run.name.x=1: run.name is a single value, nothing can be set below it"),
        ("phases.1.seq_length=1", "--set phases.1.seq_length=1: '1' is not an index of the list phases; allowed: 0 to 0"),
        ("phases.main.seq_length=1", "--set phases.main.seq_length=1: 'main' is not an index of the list phases; allowed: 0 to 0"),
        ("run.seed=1_0", "--set run.seed=1_0: run.seed: 1_0 has underscores; write 10, or put text in quotes"),
        ("run={name: a, name: b}", "--set run={name: a, name: b}: run.name: given twice; the first is at --set run={name: a, name: b}; remove one"),
        ("run={seed: 1}", "--set run={seed: 1}: run.name: is missing: Name of the run; its directory is `runs/<name>` unless `--run-dir` gives another"),
        ("checkpoint.x.y=1", "--set checkpoint.x.y=1: checkpoint.x: unknown key; allowed: save_every_steps, keep_last, keep_every_steps, "
            "async_save, snapshot_every_steps, snapshots_kept, snapshot_folder, signature_key_file, save_as_suspect, "
            "clean_after_steps"),
        ("run.seed=*x", "--set run.seed=*x: anchors (&) and aliases (*) are not allowed; write the value out"),
        (".".join("a" * 40) + "=1", f"--set {'.'.join('a' * 30)}…: the key has more than 32 parts"),
    ],
)  # fmt: skip
def test_messages_of_overrides(tmp_path: Path, override: str, expected: str) -> None:
    assert problems(write(tmp_path, SMALL), override) == [expected]


def test_an_empty_list_has_no_index(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, SMALL), "phases=[]", "phases.0.name=x")
    assert problem == "--set phases.0.name=x: '0' is not an index of the list phases; allowed: none, the list is empty"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "c.yaml: is empty; a configuration has sections such as 'run:' and 'model:'"),
        (b"# nothing\n", "c.yaml: is empty; a configuration has sections such as 'run:' and 'model:'"),
        (b"- a\n", "c.yaml:1:1: is a list; a configuration has sections such as 'run:' and 'model:'"),
        (b"\nhello\n", "c.yaml:2:1: is a single value; a configuration has sections such as 'run:' and 'model:'"),
        (b"\xef\xbb\xbfrun: 1\n", "c.yaml:1:1: starts with a byte-order mark; save it as UTF-8 without one"),
        (b"a: 1\nb: \xff\n", "c.yaml:2: is not UTF-8 (byte 0xff); save it as UTF-8"),
        ("run: 1\n".encode("utf-16"), "c.yaml:1: is not UTF-8 (byte 0xff); save it as UTF-8"),
        (b"a" * (1 << 20) + b"b", "c.yaml: is larger than 1 MiB; this is not a configuration"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    assert problems(path) == [expected]


def test_a_missing_file_is_named_with_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, SMALL)
    assert problems(tmp_path / "cc.yaml") == ["cc.yaml: there is no such file; did you mean c.yaml?"]
    assert problems(tmp_path / "other" / "x.yaml") == ["x.yaml: there is no such file"]


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert problems(tmp_path / "d") == ["d: is a directory; give a YAML file"]


def test_a_path_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path / "c.yaml" / "x\0")
    assert problem.endswith("cannot be read: embedded null byte")


def test_dumped_configuration_loads_to_an_equal_one(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, SMALL), ("model.rope_scaling={type: linear, factor: 2}", "run.name='012'"))
    assert load_config(write(tmp_path, dump_config(config))) == config


AWKWARD = ["3e-4", "1e5", "012", "on", "no", "null", "~", "1_000", "a: b", "# x", "'", '"', " x ", "über/文", "a\nb", "\U0001f600"]  # fmt: skip


@given(path=st.one_of(st.sampled_from(AWKWARD), st.text(min_size=1)), rate=st.floats(min_value=1e-30, max_value=1e30))
@example(path="x", rate=1e17)
@example(path="x", rate=1e-30)
def test_any_path_and_number_survive_the_dump(path: str, rate: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        small = write(Path(folder), SMALL)
        config = load_config(small)
        channels = {"zh": {"path": path}, "en": {"path": "en"}, "no": {"path": "no"}, "12": {"path": "12"}}
        values = config.model_dump(mode="json")
        values["data"]["channels"] = channels
        values["optimizer"]["learning_rate"] = rate
        config = Config.model_validate(values)
        try:
            again = load_config(write(Path(folder), dump_config(config)))
        except ConfigError as error:
            assert "the character U+" in str(error)  # the reader never lets such a path in
            return
        assert again == config


def never_fails_otherwise(content: bytes, *overrides: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(content)
        try:
            config = load_config(path, overrides)
        except ConfigError as error:
            assert error.problems and all(error.problems)
            assert "Input should" not in str(error), "a message of pydantic reached the user"
        else:
            assert isinstance(config, Config)


YAML_PIECES = st.lists(
    st.sampled_from([*":-?[]{},&*#!|>'\"%@` \n\t", "\n  ", ": ", "- ", "---", "<<", "a", "run", "model", "012", "1e5", "~"]),
    max_size=40,
).map("".join)  # fmt: skip


@given(st.one_of(st.text(), YAML_PIECES))
@example("a: " + "[" * 5000)
@example("a: &a [*a]")
@example("? ? ?")
def test_arbitrary_text_raises_nothing_but_config_error(text: str) -> None:
    never_fails_otherwise(text.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_config_error(content: bytes) -> None:
    never_fails_otherwise(content)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
LOCATIONS = st.sampled_from(
    ["run", "run.name", "model", "model.rope_scaling", "model.activation", "parallel", "data", "data.channels", "data.channels.zh",
     "data.channels.zh.path", "phases", "phases.0", "phases.0.blend", "phases.0.blend.zh", "phases.0.schedule", "optimizer", "x.y"]
)  # fmt: skip


@given(LOCATIONS, VALUES)
def test_arbitrary_values_in_right_places_raise_nothing_but_config_error(location: str, value: object) -> None:
    never_fails_otherwise(SMALL.encode(), f"{location}={value!r}")


@given(st.text(), st.text())
def test_arbitrary_overrides_raise_nothing_but_config_error(first: str, second: str) -> None:
    never_fails_otherwise(SMALL.encode(), first, second, f"run.{first}={second}", f"phases.0.{second}={first}")


TO_FILL_IN = "is still to be filled in; write a value in place of FILL_IN"


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("{path: data/en}", "{path: FILL_IN}", "c.yaml:12:16: data.channels.en.path"),
        ("{path: data/en}", "{path: 'FILL_IN'}", "c.yaml:12:16: data.channels.en.path"),
        ("train_steps: 100", "train_steps: FILL_IN", "c.yaml:15:18: phases.0.train_steps"),
        ("blend: {zh: 2, en: 1}", "blend: {zh: 2, en: FILL_IN}", "c.yaml:18:24: phases.0.blend.en"),
        ("    zh: {path: data/zh}\n", "    zh: FILL_IN\n", "c.yaml:11:9: data.channels.zh"),
        ("learning_rate: 3e-4", "learning_rate: FILL_IN", "c.yaml:20:18: optimizer.learning_rate"),
    ],
)
def test_a_placeholder_is_told_by_its_key(tmp_path: Path, old: str, new: str, where: str) -> None:
    """Also where any text would be allowed."""
    assert problems(write(tmp_path, changed(old, new))) == [f"{where}: {TO_FILL_IN}"]


def test_an_override_fills_in_a_placeholder(tmp_path: Path) -> None:
    path = write(tmp_path, changed("{path: data/en}", "{path: FILL_IN}").replace("3e-4", "FILL_IN"))
    given = ("data.channels.en.path=there", "optimizer.learning_rate=1e-3")
    config = load_config(path, given)
    assert (config.data.channels["en"].path, config.optimizer.learning_rate) == (Path("there"), 1e-3)
    assert load_config(path, (given[1], "data.channels={zh: {path: a}, en: {path: b}}")).data.channels[
        "zh"
    ].path == Path("a")
    assert problems(path, given[0]) == [f"c.yaml:20:18: optimizer.learning_rate: {TO_FILL_IN}"]
    assert problems(path, given[0], "optimizer.learning_rate=FILL_IN") == [
        f"--set optimizer.learning_rate=FILL_IN: optimizer.learning_rate: {TO_FILL_IN}"
    ]


def test_an_override_leaves_a_file_with_two_equal_keys_refused(tmp_path: Path) -> None:
    path = write(tmp_path, changed("  learning_rate: 3e-4", "  learning_rate: 1\n  learning_rate: FILL_IN"))
    [told] = problems(path, "optimizer.learning_rate=1e-3")
    assert "optimizer.learning_rate: given twice" in told
