"""The command line: verbs, help, messages, exit codes, and what it does not import."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest

from harness import cli
from harness.config.schema import Config
from harness.errors import EXIT_BAD_DATA, EXIT_INTERNAL, EXIT_USAGE, DataError
from harness.run.commands.kinds import CommandKind
from harness.run.commands.signal_verb import signal
from harness.run.lock import RunLock
from harness.run.paths import RunDir

CONFIG = """\
run: {name: small}
model: {num_layers: 4, hidden_size: 64, num_attention_heads: 8, ffn_hidden_size: 128, vocab_size: 1000}
data: {channels: {zh: {path: data/zh}}}
phases: [{name: main, train_steps: 10, seq_length: 32, global_batch_size: 8, blend: {zh: 1}}]
optimizer: {learning_rate: 3e-4}
"""

ROOT = Path(__file__).parents[2]
VERBS = list(cli.root.commands)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Stands for the launcher: what it was called with."""
    calls: list[tuple[object, ...]] = []
    launcher = ModuleType("harness.launch.local")
    launcher.train = lambda *arguments: calls.append(arguments) or 75  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "harness.launch.local", launcher)
    return calls


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([verb, "--help"]) == 0
    help_text = capsys.readouterr().out
    assert re.search(rf"Examples?:\n +harness {verb}", help_text)
    configs = re.findall(r"model_configs/\S+", help_text)
    assert [name for name in configs if not (ROOT / name).is_file()] == []


def test_help_names_every_verb_with_a_whole_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    help_text = capsys.readouterr().out
    assert all(re.search(rf"^  {verb} .*\.$", help_text, re.MULTILINE) for verb in VERBS)
    assert "..." not in help_text.split("Commands:")[1]


def test_help_imports_nothing_heavy() -> None:
    """What `harness --help` costs, measured by what it imports instead of by a clock."""
    program = (
        "import sys; from harness.cli import run; code = run(['--help']);"
        "print(code, sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    code, imported = done.stderr.split(" ", 1)
    assert code == "0"
    heavy = {"torch", "numpy", "pydantic", "pydantic_core", "rich", "yaml", "megatron"}
    assert not heavy & set(json.loads(imported.replace("'", '"')))


def test_without_a_verb_help_is_shown_but_it_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == EXIT_USAGE
    assert "Usage: harness" in capsys.readouterr().err
    assert cli.run(["data"]) == EXIT_USAGE
    assert "Usage: harness data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "There is no verb 'trian'. Did you mean 'train'? (see 'harness --help')"),
        (
            ["zzz"],
            f"There is no verb 'zzz'. Verbs: {', '.join([*VERBS, *cli.RootGroup.elsewhere])}. (see 'harness --help')",
        ),
        (["data", "tokenise"], "There is no verb 'tokenise'. Did you mean 'tokenize'? (see 'harness data --help')"),
        (["train"], "Missing argument 'CONFIG'. (see 'harness train --help')"),
        (["plan", "x.yaml"], "1 problem in the configuration:\n  x.yaml: there is no such file"),
    ],
)
def test_wrong_usage_is_one_message_and_64(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == EXIT_USAGE
    assert capsys.readouterr().err == f"harness: error: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "c.yaml", "--resume", "maybe"], "--resume"),
        (["plan", "c.yaml", "--gpus", "0"], "--gpus"),
        (["plan", "c.yaml", "--gpsu", "1"], "--gpsu"),
        (["signal", "run", "sav"], "'save', 'stop', 'save-and-stop'"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == EXIT_USAGE
    message = capsys.readouterr().err
    assert message.startswith("harness: error: ") and named in message


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "exit_code", "told"),
    [
        (DataError("part-00003.bin is truncated"), EXIT_BAD_DATA, "harness: error: part-00003.bin is truncated\n"),
        (KeyboardInterrupt(), 130, "\n"),
        (click.Abort(), 130, ""),
    ],
)
def test_errors_have_their_exit_code_and_no_traceback(
    error: BaseException,
    exit_code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(cli.root.commands, "fail", click.Command("fail", callback=raising(error)))
    assert cli.run(["fail"]) == exit_code
    assert capsys.readouterr().err == told


def test_a_bug_shows_its_traceback_and_leaves_with_70(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.root.commands, "fail", click.Command("fail", callback=raising(ZeroDivisionError("oops"))))
    assert cli.run(["fail"]) == EXIT_INTERNAL
    told = capsys.readouterr().err
    assert told.startswith("Traceback") and told.endswith("ZeroDivisionError: oops\n")


def test_main_leaves_with_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["harness", "trian"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == EXIT_USAGE


OPENS_AND_STARTS = """
import pathlib, subprocess, sys
from unittest.mock import patch
from harness import cli
def run(arguments):
    with pathlib.Path(arguments[0]).open("w") as lock:  # which workers inherit
        worker = [sys.executable, "-c", "import os; os.write(1, b'said'); os.write(2, b'told')"]
        return subprocess.run(worker, pass_fds=[lock.fileno()], check=False).returncode
with patch.object(cli, "run", run):
    cli.main()
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_has_closed_do_not_reach_workers(tmp_path: Path, closed: str) -> None:
    command = f'exec "$0" -c "$1" "$2" {closed}'
    arguments = [sys.executable, OPENS_AND_STARTS, str(tmp_path / "file")]
    done = subprocess.run(["bash", "-c", command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_train_hands_over_and_returns_the_launchers_exit_code(config: Path, started: list[tuple[object, ...]]) -> None:
    assert cli.run(["train", str(config), "--set", "run.seed=1", "--set", "run.name=b", "--resume", "must"]) == 75
    assert started == [(config, None, ("run.seed=1", "run.name=b"), "must")]


def test_train_takes_the_run_directory_that_is_given(config: Path, started: list[tuple[object, ...]]) -> None:
    cli.run(["train", str(config), "--run-dir", "elsewhere/x"])
    assert started == [(config, Path("elsewhere/x"), (), "auto")]


def test_train_starts_nothing_with_a_wrong_configuration(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", str(config), "--set", "model.num_layers=0"]) == EXIT_USAGE
    assert "--set model.num_layers=0: model.num_layers: must be at least 1, given 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [config]


def test_plan_prints_json(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", str(config), "--gpus", "2", "--gpu", "h100", "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_schema_is_the_schema_of_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == Config.model_json_schema()


def test_signal_offers_exactly_the_orders_there_are() -> None:
    (argument,) = (each for each in signal.params if each.name == "command")
    assert isinstance(argument.type, click.Choice)
    of_watcher, of_quarantine = {CommandKind.STOP_FOR_PERSON, CommandKind.MARK}, {CommandKind.QUARANTINE}
    assert set(CommandKind) - set(argument.type.choices) == of_watcher | of_quarantine


def test_signal_drops_an_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert cli.run(["signal", str(tmp_path), "save", "--reason", "noon"]) == 0
    (command,) = (tmp_path / "signals").glob("*.json")
    assert json.loads(command.read_text()) == {"kind": "save", "reason": "noon"}
    assert capsys.readouterr().out == f"command given: {command}\n"


def test_signal_drops_a_rollback_and_asks_for_evidence(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    options = ["--skip-steps", "5:6", "--learning-rate-factor", "0.5", "--adam-betas", "0.9:0.8", "--for-steps", "3"]
    assert cli.run(["signal", str(tmp_path), "rollback", "--to-step", "4", *options]) == 0
    assert cli.run(["signal", str(tmp_path), "evidence", "--steps", "2:3"]) == 0
    evidence, rollback = sorted((tmp_path / "signals").glob("*.json"))
    assert json.loads(evidence.read_text()) == {"kind": "evidence", "reason": "", "steps": [2, 3]}
    assert json.loads(rollback.read_text()) == {
        "kind": "rollback",
        "reason": "",
        "to_step": 4,
        "skip_steps": [5, 6],
        "learning_rate_factor": 0.5,
        "adam_betas": [0.9, 0.8],
        "for_steps": 3,
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["rollback", "--to-step", "4", "--steps", "1:2"], "--steps does not belong to the command rollback; allowed"),
        (["save", "--to-step", "3"], "--to-step does not belong to the command save; it has none"),
        (["rollback"], "give exactly one of to-step and before-step"),
        (["rollback", "--to-step", "4", "--skip-steps", "4-5"], "'4-5' is not a pair of numbers A:B, such as 116:183"),
        (["rollback", "--to-step", "4", "--adam-betas", "a:b"], "'a:b' is not a pair of numbers A:B, such as 0.9:0.95"),
        (["evidence"], "which steps? give --steps A:B, such as --steps 4008:4012"),
        (["evidence", "--steps", "1:100"], "steps is [1, 100]; it is [first, last], from 1 on, at most 64 steps"),
    ],
)
def test_signal_says_what_is_wrong_with_an_order(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert cli.run(["signal", str(tmp_path), *arguments]) == EXIT_USAGE
    assert text in capsys.readouterr().err
    assert not (tmp_path / "signals").exists()


def test_train_rolls_back_before_it_starts_and_only_once(
    config: Path, tmp_path: Path, started: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    arguments = ["train", str(config), "--run-dir", str(run_dir), "--rollback-to", "4", "--skip-steps", "5:6"]
    assert cli.run(arguments) == EXIT_USAGE
    assert f"--rollback-to: nothing was trained in {run_dir} yet" in capsys.readouterr().err
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(CONFIG)
    with RunLock(RunDir(run_dir)):
        assert cli.run(arguments) == EXIT_USAGE
    assert f"harness signal {run_dir} rollback --to-step 4" in capsys.readouterr().err
    assert started == []

    assert cli.run(arguments) == 75
    (command,) = (run_dir / "signals").glob("*.json")
    assert json.loads(command.read_text())["skip_steps"] == [5, 6]
    (run_dir / "signals" / "done").mkdir()
    command.rename(run_dir / "signals" / "done" / f"{command.stem}-0000004.json")
    assert cli.run(arguments) == 75
    assert "it is not carried out twice" in capsys.readouterr().err
    assert not list((run_dir / "signals").glob("*.json"))
    assert cli.run(["train", str(config), "--skip-steps", "5:6"]) == EXIT_USAGE
    assert "--skip-steps belongs to --rollback-to" in capsys.readouterr().err


def test_signal_needs_a_run_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["signal", str(tmp_path), "save"]) == EXIT_USAGE
    assert f"harness: error: {tmp_path} is not a run directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "tokenize", "a.jsonl", "--text-key", "\udcff"),
        ("data", "tokenize", "a.jsonl", "--end-of-document=\udcff"),
        ("data", "order", "\udce9t\udce9/a.jsonl", "--output", "out"),
        ("train", "\udcff.yaml"),
    ],
)
def test_arguments_that_are_not_utf8_are_wrong(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == EXIT_USAGE
    (message,) = capsys.readouterr().err.splitlines()
    assert "is not UTF-8. Give text as UTF-8" in message


LONG = "x" * 5000


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "tokenize", LONG, "--tokenizer", str(ROOT / "README.md"), "--channel", "a", "--output", "out"),
        ("data", "tokenize", "a.jsonl", "--tokenizer", LONG, "--channel", "a", "--output", "out"),
        ("data", "clean", LONG + "/*.jsonl", "--output", "out"),
        ("data", "order", "x" * 300 + ".jsonl", "--by", "shuffle", "--output", "out"),
        ("data", "train-tokenizer", f"zh={LONG}", "--vocab-size", "300", "--output", "new.model"),
        ("data", "verify", LONG),
        ("data", "count", LONG),
        ("train", LONG),
    ],
)
def test_names_longer_than_a_file_can_have_are_no_bug(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) in (EXIT_USAGE, EXIT_BAD_DATA)
    error = capsys.readouterr().err
    assert error.startswith("harness: error: ")
    assert "Traceback" not in error


@pytest.mark.parametrize("keep", ["nan%", "inf", "-5%", "half"])
def test_a_size_that_is_none_is_one_clear_error(keep: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data", "dedup", "a.jsonl", f"--keep={keep}", "--output", "out"]) == EXIT_USAGE
    (message,) = capsys.readouterr().err.splitlines()
    assert f"--keep {keep!r}: " in message
