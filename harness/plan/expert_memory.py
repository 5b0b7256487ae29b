"""Memory of a layer with experts, beside what it has in common with a dense one, if experts get equally many tokens.

Of t tokens that a rank has between layers, it computes `r = t * k * etp` rows in its experts (k experts of a token, etp
ranks that share each expert): every rank of the expert-parallel group has t tokens, and gives as many away as it gets.
For backward it keeps (h hidden, E experts, f this rank's share of an expert's width, g that of the shared experts):

    h * r, and 4*f * r      tokens in the order of their experts; gate and up projection, activation, and that times
                            the token's weight (3*f if not gated; `moe_act` recomputed: only the projections)
    E * t, and r            fp32 numbers: the router's scores, and the weights of rows
    3*g                     of each token of the tensor-parallel group, as in a dense MLP (`mlp_act` recomputed: 2*g)

Nothing of the experts is kept where `moe` is recomputed, and nothing of the shared ones where `shared_experts` is.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.config.model import ModelConfig
from harness.plan.layouts import Layout

_FP32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class ExpertLayer:
    """A layer with experts on one rank, for a micro-batch."""

    model: ModelConfig
    layout: Layout
    value_bytes: int
    """Bytes of a number in the format of activations."""
    own_tokens: int
    """Tokens of a micro-batch between layers, of this rank alone where tensor-parallel ranks share the sequence."""
    all_tokens: int
    """Tokens of the whole tensor-parallel group."""
    modules: frozenset[str]
    """Modules that are recomputed."""

    @property
    def _rows(self) -> int:
        return self.own_tokens * self.model.moe_router_topk * self.layout.expert_tensor

    @property
    def _width(self) -> int:
        return self.model.expert_width // self.layout.expert_tensor

    @property
    def _projected(self) -> int:
        """Width of what the first projection of an expert gives."""
        return (2 if self.model.gated else 1) * self._width

    def kept_bytes(self) -> int:
        """Return the bytes that are kept between the passes, beside those of a layer's attention, norms and stream."""
        return 0 if "moe" in self.modules else self.made_bytes()

    def made_bytes(self) -> int:
        """Return the bytes that the experts and their router keep when they are computed."""
        activated = 0 if "moe_act" in self.modules else 2 * self._width
        rows = self.value_bytes * self._rows * (self.model.hidden_size + self._projected + activated)
        of_router = _FP32_BYTES * (self.own_tokens * (self.model.num_moe_experts or 0) + self._rows)
        return rows + of_router + self._shared_bytes()

    def moments(self) -> tuple[tuple[int, int], ...]:
        """Return the peaks in backward: the bytes that are made for a moment, less those that are no longer kept.

        They are at the second products of the experts, at their activation, and at the first products.
        """
        hidden, width, projected = self.model.hidden_size, self._width, self._projected
        rows = self.value_bytes * self._rows
        shared = self._shared_bytes()
        num_own = (self.model.num_moe_experts or 0) // self.layout.expert
        first, second = num_own * projected * hidden, num_own * width * hidden
        recomputes = "moe_act" in self.modules
        again = 2 * width if recomputes else 0
        freed = 0 if recomputes else width
        return (
            (rows * (hidden + width + again) + self.value_bytes * second, shared),
            (rows * (projected + 2 * width), shared + rows * freed),
            (rows * (projected + hidden) + self.value_bytes * first, shared + rows * 2 * freed),
        )

    def _shared_bytes(self) -> int:
        if "shared_experts" in self.modules:
            return 0
        width = (self.model.moe_shared_expert_intermediate_size or 0) // self.layout.tensor
        kept = ((2 if self.model.gated else 1) + ("mlp_act" not in self.modules)) * width
        return self.value_bytes * self.all_tokens * kept
