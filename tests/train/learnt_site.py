"""A run on documents that can be learnt, with stretches of noise in one channel, and a watcher beside it."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from process_runs import Command, Site, signal_all

from data_prep.channels.indexed_writer import PartWriter, token_dtype

VOCAB_SIZE = 256
SEQ_LENGTH = 16
BATCH = 8
CODE_EVERY = 2
"""Every second sample is code."""
_MOST_STEPS_AHEAD = 8
"""Steps that training is ahead of the watcher at most: on a busy machine it would be over before the watcher looks."""
_PACED_EVERY_S = 0.01
Documents = Callable[[np.random.RandomState, int], list[int]]
WATCH: dict[str, Any] = {
    "action": "rollback",
    "rollback_margin_steps": 10,
    "skip_lead_steps": 4,
    "skip_steps": 68,
    "most_skip_steps": 68,
    "cool_down_steps": 5,
    "verify_steps": 0,
    "poll_s": 0.05,
    "least_free_gib": 0,
}


def chain(random: np.random.RandomState, length: int) -> list[int]:
    """A document that can be learnt: a token follows from the one before, but for a little chance."""
    tokens = [int(random.randint(VOCAB_SIZE))]
    while len(tokens) < length:
        tokens.append((5 * tokens[-1] + 17 + int(random.randint(2))) % VOCAB_SIZE)
    return tokens


def noise(random: np.random.RandomState, length: int) -> list[int]:
    """A document that cannot."""
    return [int(token) for token in random.randint(VOCAB_SIZE, size=length)]


def learnt_site(root: Path, code: Sequence[tuple[Documents, int]], *, train_steps: int) -> Site:
    """A run whose channel `code` has these stretches: what its documents are, and for how many steps; then chains."""
    site = Site(root)
    random = np.random.RandomState(5)
    for name in ("en", "code"):
        stretches = [*code, (chain, 600)] if name == "code" else [(chain, 900)]
        for number, (make, num_steps) in enumerate(stretches):
            _write_part(root / "learnt" / name, number, make, _tokens_of_steps(num_steps), random)
    site.config["data"]["channels"] = {name: {"path": str(root / "learnt" / name)} for name in ("en", "code")}
    phase = site.config["phases"][0]
    phase |= {"train_steps": train_steps, "global_batch_size": BATCH, "blend": {"en": 1, "code": 1}}
    site.config["optimizer"]["learning_rate"] = 5e-3
    site.config["checkpoint"] = {"save_every_steps": 50}
    site.config["watch"] = dict(WATCH)
    return site


def train_and_watch(site: Site, *arguments: str) -> tuple[tuple[int, str], tuple[int, str]]:
    """Exit code and output of the training and of the watcher, which ends by itself."""
    num_exits = len(site.events("exit"))
    with site.train(*arguments) as training:
        training.wait_until(lambda: site.run_dir.config.exists())
        with Command(["watch", str(site.run_dir.root)]) as watching:
            with _paced(site, training, watching):
                trained = training.finish()
            assert len(site.events("exit")) > num_exits, trained  # else the watcher waits for a restart
            return trained, watching.finish()


@contextmanager
def _paced(site: Site, training: Command, watching: Command) -> Iterator[None]:
    """Holds the ranks while they are too far ahead of the watcher, as long as it is there."""
    is_over = threading.Event()
    pacing = threading.Thread(target=_pace, args=(site, training, watching, is_over))
    pacing.start()
    try:
        yield
    finally:
        is_over.set()
        pacing.join()


def _pace(site: Site, training: Command, watching: Command, is_over: threading.Event) -> None:
    held: list[int] = []
    while not is_over.wait(_PACED_EVERY_S) and watching.process.poll() is None:
        is_ahead = _steps_ahead(site) > _MOST_STEPS_AHEAD
        if is_ahead and not held:
            held = list(training.workers().values())
            signal_all(held, signal.SIGSTOP)
        elif held and not is_ahead:
            signal_all(held, signal.SIGCONT)
            held = []
    signal_all(held, signal.SIGCONT)


def _steps_ahead(site: Site) -> int:
    """Steps that are recorded and that the watcher has not looked at."""
    offset = 0
    with suppress(OSError):
        offset = json.loads((site.run_dir.watch / "state.json").read_text())["memory"]["metrics"]["offset"]
    with suppress(OSError):
        return site.run_dir.metrics.read_bytes()[offset:].count(b"\n")
    return 0


def _tokens_of_steps(num_steps: int) -> int:
    """Tokens that a part of the channel needs to feed so many steps."""
    return num_steps * BATCH // CODE_EVERY * SEQ_LENGTH + 1


def _write_part(folder: Path, number: int, make: Documents, wanted: int, random: np.random.RandomState) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    writer = PartWriter(folder, number, token_dtype(VOCAB_SIZE))
    while writer.num_tokens < wanted:
        writer.add_document(make(random, min(wanted - writer.num_tokens, 48)))
    writer.finish()
