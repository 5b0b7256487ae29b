"""Everything of torch and of the harness that a trace replaces: one table, and the way to do it.

The code itself treats the meta device as it treats a GPU: kernels allocate their outputs there, and are not launched.
What is left is what an imagined world cannot do. What is asked of torch's operators is answered in
`harness.trace.observer`, without replacing anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.config.schema import Config
from harness.parallel.imagined_world import imagined_groups, same_from_all


@dataclass(frozen=True, kw_only=True)
class Substitution:
    """Something in a module that is replaced for the rest of the process."""

    module: str
    """Module, or `module:Class`."""
    name: str
    why: str
    substitute: Callable[[Any], Any]
    """Makes what takes the place, from what is there."""


def _nothing(_there: object) -> Callable[..., None]:
    return lambda *_arguments, **_keywords: None


def _without_a_ring(block_spec: Callable[..., Any]) -> Callable[..., Any]:
    def own_layers(config: Config, *arguments: object) -> object:
        parallel = config.parallel
        if parallel.cp_comm_type == "p2p":
            parallel = parallel.model_copy(update={"cp_comm_type": "allgather"})
        return block_spec(config.model_copy(update={"parallel": parallel}), *arguments)

    return own_layers


SUBSTITUTIONS = (
    Substitution(
        module="torch.distributed",
        name="new_group",
        why="Megatron also makes groups for the host, whose ranks would be waited for.",
        substitute=imagined_groups,
    ),
    Substitution(
        module="torch.distributed",
        name="all_gather_object",
        why="The ranks of an imagined world give no objects.",
        substitute=same_from_all,
    ),
    Substitution(
        module="harness.model.initial_weights",
        name="fill",
        why="No generator draws numbers for a tensor without values.",
        substitute=_nothing,
    ),
    Substitution(
        module="harness.model.mcore",
        name="block_spec",
        why="The ring of Transformer Engine needs it; ranks that share samples are traced with our attention.",
        substitute=_without_a_ring,
    ),
)


def substitute_all() -> None:
    """Make every substitution, for the rest of this process."""
    for each in SUBSTITUTIONS:
        module, _, owner_class = each.module.partition(":")
        owner: Any = importlib.import_module(module)
        if owner_class:
            owner = getattr(owner, owner_class)
        setattr(owner, each.name, each.substitute(getattr(owner, each.name)))
