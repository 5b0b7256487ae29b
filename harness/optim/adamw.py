"""AdamW with torch's fused kernel, with its step count where Megatron's checkpoints expect it.

torch's own AdamW keeps one `step` tensor per parameter, while Megatron's resharded loading needs one number per
parameter group. This class keeps only the two moments as state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from harness.parameters.optimizers import ADAMW


class AdamW(torch.optim.AdamW):
    """Decoupled weight decay Adam (Loshchilov and Hutter 2019) on fp32 parameters.

    Attributes:
        gradient_divisor: A scalar tensor by which gradients are divided inside the kernel (gradient clipping without
            a pass over the gradients), or None.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        **_megatron_options: object,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.gradient_divisor: torch.Tensor | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state without torch's AdamW, which would look for a step in every parameter's state."""
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. Parameters without one keep their moments."""
        assert closure is None, "AdamW is stepped with gradients that are ready"
        first, second = ADAMW.states
        for group in self.param_groups:
            group["step"] = int(group.get("step", 0)) + 1
            params = [p for p in group["params"] if p.grad is not None and p.numel() > 0]
            if not params:
                continue
            moments = [with_states(self.state[p], p, ADAMW.states) for p in params]
            # Filled on the device: a number that is copied there would make the host wait.
            count = torch.full((), float(group["step"]), device=params[0].device)
            torch._fused_adamw_(
                params,
                [p.grad for p in params],
                [state[first] for state in moments],
                [state[second] for state in moments],
                [],
                [count] * len(params),
                lr=float(group["lr"]),
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=self.gradient_divisor,
            )


def with_states(state: dict[str, Any], parameter: torch.Tensor, names: Iterable[str]) -> dict[str, Any]:
    """Return the state of a parameter: with zeros before its first update."""
    for name in names:
        if name not in state:
            state[name] = torch.zeros_like(parameter)
    return state
