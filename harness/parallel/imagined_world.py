"""A world of any size in which only one rank exists: collectives are asked for, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

_BACKENDS = "cpu:fake,meta:fake"


def join(world_size: int, *, rank: int) -> None:
    """Be a rank of a world of `world_size` ranks, none of which is started. Collectives return at once."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group(_BACKENDS, rank=rank, world_size=world_size, store=FakeStore())


def imagined_groups(new_group: Callable[..., Any]) -> Callable[..., Any]:
    """Return `torch.distributed.new_group` for this world: whatever backend is asked for, nobody is waited for."""

    def imagine_group(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401 (torch's)
        return new_group(*arguments, **{**keywords, "backend": _BACKENDS})

    return imagine_group


def same_from_all(_all_gather_object: Callable[..., Any]) -> Callable[..., None]:
    """Return `torch.distributed.all_gather_object` for this world: all ranks give what this one gives."""

    def gather(given_by_all: list[Any], value: Any, *_arguments: Any, **_keywords: Any) -> None:  # noqa: ANN401
        given_by_all[:] = [value] * len(given_by_all)

    return gather


def ranks_of_argument(boxed: Any) -> tuple[int, ...]:  # noqa: ANN401 (torch's ScriptObject)
    """Return the ranks of the group that an operator of c10d has as an argument."""
    return ranks_of(dist.ProcessGroup.unbox(boxed))


def ranks_of(group: dist.ProcessGroup) -> tuple[int, ...]:
    """Return the ranks of a group, in order."""
    return tuple(dist.get_process_group_ranks(group))
