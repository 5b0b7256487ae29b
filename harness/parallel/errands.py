"""Work that rank 0 hands out to all ranks, which wait for it outside of any collective.

A collective gives up after half an hour, and what rank 0 does alone on a shared disk may take longer. So the others
wait at the store by which they met, and do there what rank 0 asks for. Each errand is a value that can be JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # torch lists none
from torch.distributed.distributed_c10d import _get_default_store

from harness.json_text import parse_json
from harness.parallel.ranks import Place

Act = Callable[[Any], Any]
"""Does an errand, and returns what it gave."""
_WAIT = timedelta(days=1)
"""torch warns of each wait that ends without an answer."""
_LOOK_EVERY_S = 0.02
_DISMISSED = "dismissed"


class Errands:
    """Errands by the store of the world: rank 0 leads, all others attend."""

    def __init__(self, world: Place) -> None:
        self._world = world
        store: Store = _get_default_store()
        self._store = PrefixStore("errands", store)

    @contextmanager
    def leading(self, act: Act) -> Iterator[Callable[[Mapping[int, Any]], dict[int, Any]]]:
        """Yield a function that hands out errands by rank and returns what they gave. Only rank 0 calls it.

        The others leave `attend` at the end of the `with` block, whatever happens in it.
        """

        def hand_out(errands: Mapping[int, Any]) -> dict[int, Any]:
            number = self._next("rounds")
            helpers = [rank for rank in errands if rank]
            for rank in helpers:
                self._tell(rank, json.dumps([number, errands[rank]]))
            given = {0: act(errands[0])} if 0 in errands else {}
            pause_s = _LOOK_EVERY_S
            while self._store.add(f"done/{number}", 0) < len(helpers):
                time.sleep(pause_s)
                pause_s = min(1.0, 1.5 * pause_s)
            return given | {rank: parse_json(self._store.get(f"given/{number}/{rank}")) for rank in helpers}

        try:
            yield hand_out
        finally:
            self._dismiss()

    def attend(self, act: Act) -> None:
        """Do errands until rank 0 has none any more. Every other rank calls it."""
        rank = self._world.rank
        while True:
            key = f"errand/{rank}/{self._next(f'attended/{rank}')}"
            self._await(key)
            asked = self._store.get(key)
            self._store.delete_key(key)
            if asked == _DISMISSED.encode():
                self._dismiss()
                return
            number, errand = parse_json(asked)
            self._store.set(f"given/{number}/{rank}", json.dumps(act(errand)))
            self._store.add(f"done/{number}", 1)

    def _dismiss(self) -> None:
        """Dismiss two others, who do the same: so nobody waits for rank 0 to tell all."""
        first = 2 * self._world.rank + 1
        for rank in range(first, min(first + 2, self._world.size)):
            self._tell(rank, _DISMISSED)

    def _tell(self, rank: int, what: str) -> None:
        self._store.set(f"errand/{rank}/{self._next(f'told/{rank}')}", what)

    def _next(self, of_what: str) -> int:
        """Return the next number, from 1, of what the store counts."""
        number: int = self._store.add(of_what, 1)
        return number

    def _await(self, key: str) -> None:
        while True:
            try:
                self._store.wait([key], _WAIT)
            except RuntimeError:
                if not self._store.check([key]):  # raises if the store is gone
                    continue
            return
