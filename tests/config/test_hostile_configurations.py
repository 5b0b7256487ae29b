"""A configuration may be anything that a path leads to: it is refused in one message, soon, and in little memory."""
# ruff: noqa: E501 (a table of whole messages reads best with one message a line)

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from config_text import SMALL, changed

from harness import cli
from harness.errors import EXIT_FINISHED, EXIT_USAGE

SOON_S = 10.0

HOSTILE: dict[str, str | bytes] = {
    "aliases of aliases": "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "nested lists": "[" * 100_000,
    "nested sections": "{a: " * 100_000,
    "nested dashes": "- " * 200_000,
    "a million keys": "".join(f"k{number}: 1\n" for number in range(80_000)),
    "unknown keys": "".join(f"{'w' * 80}{number}: 1\n" for number in range(9_000)),
    "a control character": SMALL.replace("small", "sm\x1ball"),
    "NUL": SMALL.replace("small", "sm\0all"),
    "UTF-16": SMALL.encode("utf-16"),
    "half a pair of UTF-16": b"run: \xed\xa0\x80\n",
    "a long number": changed("num_layers: 4", "num_layers: " + "9" * 500_000),
    "a number beyond 64 bits": changed("num_layers: 4", f"num_layers: {10**30}"),
    "a float beyond 64 bits": changed("learning_rate: 3e-4", "learning_rate: 1e999"),
    "a long word": changed("name: small", "name: " + "a" * 900_000),
    "an escape in quotes": changed("name: small", 'name: "\\e[31m"'),
    "a Python object": "run: !!python/object/apply:os.system [id]\n",
    "a gigabyte": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_one_error(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, content = tmp_path / "c.yaml", HOSTILE[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if name == "a gigabyte":
        os.truncate(path, 1 << 30)
    require_refused(path, capsys)


def require_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    began = time.monotonic()
    assert cli.run(["plan", str(path)]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert time.monotonic() - began < SOON_S
    assert said.startswith("harness: error: ")
    assert "Traceback" not in said
    assert len(said) < 20_000
    assert all(character.isprintable() or character == "\n" for character in said)
    return said


def test_a_pipe_that_nobody_writes_to_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    assert "is a pipe or a device, not a file" in require_refused(tmp_path / "c.yaml", capsys)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/proc/self/mem"])
def test_devices_are_refused(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    require_refused(Path(device), capsys)


def test_a_folder_is_refused_and_a_link_to_a_file_is_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is a directory" in require_refused(tmp_path, capsys)
    (tmp_path / "c.yaml").write_text(SMALL)
    (tmp_path / "link.yaml").symlink_to("c.yaml")
    assert cli.run(["plan", str(tmp_path / "link.yaml")]) == EXIT_FINISHED


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    en: {path: data/en}\n", "    en: {path: data/en}\n  skip_windows: [[5, 5], [100, 5]]\n",
         "13:26: data.skip_windows.1: must be [start, stop) with start at most stop, given [100, 5]; did you mean [5, 100]?"),
        ("    global_batch_size: 8\n", "    global_batch_size: 8000\n    batch_ramp_up: {start: 1000, increment: 1, ramp_up_samples: 9}\n",
         "18:34: phases.0.batch_ramp_up.increment: makes 7,000 increases from start 1000 to global_batch_size 8000; at most 1,000 are allowed: take at least 7"),
        ("num_layers: 4", "num_layers: 10000000", "4:3: model.num_layers: must be at most 2048, given 10000000"),
        ("    train_steps: 100\n", "    train_tokens: 9007199254740992\n",
         "15:5: phases.0.train_tokens: makes 35,184,372,088,832 steps of the run up to its end; a run has at most 1,000,000,000; shorten the phase"),
        ("    train_steps: 100\n    seq_length: 32\n    global_batch_size: 8\n", "    train_steps: 1000000000\n    seq_length: 16777216\n    global_batch_size: 8\n",
         "15:5: phases.0.train_steps: makes 134,217,728,000,000,000 tokens of the run up to its end; a run has at most 9,007,199,254,740,992; shorten the phase"),
        ("name: small", "name: small\nlaunch: {time_limit: '1 day'}",
         "3:10: launch.time_limit: must be a time as Slurm spells it: minutes, hours:minutes:seconds or days-hours:minutes:seconds, given the text '1 day'"),
        ("name: small", "name: small\nlaunch: {account: '--wrap=x'}",
         "3:10: launch.account: must be printable text without spaces that does not begin with '-', given the text '--wrap=x'"),
        ("name: small", "name: small\nlaunch: {sbatch_flags: [-a0-3]}",
         "3:25: launch.sbatch_flags.0: must be one long option in one piece, such as --qos=high, given the text '-a0-3'"),
        ("learning_rate: 3e-4", "learning_rate: 1e-320", "20:3: optimizer.learning_rate: must be at least 1e-30, given 1e-320"),
    ],
)  # fmt: skip
def test_what_is_legal_by_itself_and_absurd(
    old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(changed(old, new))
    assert message in require_refused(path, capsys)


@pytest.mark.slow
def test_the_largest_numbers_that_are_allowed_are_planned_soon(tmp_path: Path) -> None:
    names = "\n".join(
        f"  - {{name: p{number}, train_steps: 2000, seq_length: 32, global_batch_size: {1000 + number}, blend: {{zh: 1}}, "
        f"batch_ramp_up: {{start: {number + 1}, increment: 1, ramp_up_samples: 500}}}}"
        for number in range(256)
    )
    head, _, rest = SMALL.partition("phases:\n")
    tail = rest[rest.index("optimizer:") :]
    path = tmp_path / "c.yaml"
    path.write_text(f"{head.replace('num_layers: 4', 'num_layers: 2048')}phases:\n{names}\n{tail}")
    began = time.process_time()
    assert cli.run(["plan", str(path), "--json", "--plot", str(tmp_path / "plan.png")]) == EXIT_FINISHED
    assert time.process_time() - began < 30
