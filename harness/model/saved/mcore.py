"""Modules of our own in checkpoints: what tensor-parallel ranks hold of their parameters."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from harness.parallel import cpu

cpu.prepare()

from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint  # noqa: E402 (after the CPU is prepared)


class SavedWhole(nn.Module):
    """A module of whose parameters and buffers every tensor-parallel rank has all."""

    cut_dim: ClassVar[int | None] = None
    """Dimension along which tensor-parallel ranks share each parameter; None: they do not."""

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,  # noqa: ARG002 (Megatron gives it by name)
    ) -> dict[str, Any]:
        """Return the tensors with their places in those of all tensor-parallel ranks."""
        state = self.state_dict(prefix="", keep_vars=True)
        cuts = {} if self.cut_dim is None else dict.fromkeys(state, self.cut_dim)
        sharded: dict[str, Any] = make_sharded_tensors_for_checkpoint(state, prefix, cuts, sharded_offsets)
        return sharded


class SavedCut(SavedWhole):
    """A module whose parameters tensor-parallel ranks share along their first dimension."""

    cut_dim = 0
