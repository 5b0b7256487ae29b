"""The choice of experts for each token, the weights with which they are added up, and what balances the experts.

Pure functions of the router's logits, in fp32. Shapes: T tokens, E experts, K experts of a token, G groups of experts,
N sequences (or 1), of L tokens each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from harness.config.model import ModelConfig

_SMALL = 1e-20
"""Added to sums of scores that something is divided by, as DeepSeek's and Megatron's routers do."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules by which a router chooses. The fields are those of `ModelConfig`, without their prefix `moe_router_`."""

    topk: int
    score_function: Literal["sigmoid", "softmax"]
    pre_softmax: bool
    num_groups: int | None
    group_topk: int | None
    group_scores: int | None
    topk_scaling_factor: float

    @staticmethod
    def of(model: ModelConfig) -> Rules:
        """Return the rules of a model."""
        return Rules(**{name: getattr(model, f"moe_router_{name}") for name in Rules.__dataclass_fields__})


def choose(logits_TE: torch.Tensor, bias_E: torch.Tensor | None, rules: Rules) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight of every expert for every token, 0 where it is not chosen, and which are: both `[T, E]`.

    The bias takes part in the choice only, not in the weights (Wang et al. 2024).
    """
    if rules.score_function == "sigmoid":
        scores_TE = logits_TE.sigmoid()
    else:
        scores_TE = logits_TE.softmax(dim=-1) if rules.pre_softmax else logits_TE
    for_choice_TE = scores_TE if bias_E is None else scores_TE + bias_E
    chosen_TK = _within_groups(for_choice_TE.detach(), rules).topk(rules.topk, dim=-1).indices
    weights_TK = scores_TE.gather(-1, chosen_TK)
    if rules.score_function == "sigmoid":
        if rules.topk > 1:
            weights_TK = weights_TK / (weights_TK.sum(dim=-1, keepdim=True) + _SMALL)
    elif not rules.pre_softmax:
        weights_TK = weights_TK.softmax(dim=-1)
    if rules.topk_scaling_factor != 1.0:
        weights_TK = weights_TK * rules.topk_scaling_factor
    weights_TE = torch.zeros_like(logits_TE).scatter(-1, chosen_TK, weights_TK)
    return weights_TE, _as_map(chosen_TK, logits_TE)


def _within_groups(scores_TE: torch.Tensor, rules: Rules) -> torch.Tensor:
    """Return the scores with -inf for experts outside of each token's best groups.

    Sources: DeepSeek-V3, section 2.1.2, and with one score a group DeepSeek-V2, section 2.1.2.
    """
    if rules.num_groups is None or rules.group_topk is None:
        return scores_TE
    by_group_TGe = scores_TE.view(len(scores_TE), rules.num_groups, -1)
    num_scores = rules.group_scores or rules.topk // rules.group_topk
    of_groups_TG = by_group_TGe.topk(num_scores, dim=-1).values.sum(dim=-1)
    best_TG = of_groups_TG.topk(rules.group_topk, dim=-1).indices
    outside_TG = torch.ones_like(of_groups_TG, dtype=torch.bool).scatter(-1, best_TG, False)
    return by_group_TGe.masked_fill(outside_TG.unsqueeze(-1), -torch.inf).view_as(scores_TE)


def shares(logits_TE: torch.Tensor, rules: Rules) -> torch.Tensor:
    """Return the scores of each token as shares that add up to 1, `[T, E]`. These are balanced, and have an entropy."""
    if rules.score_function == "softmax":
        return logits_TE.softmax(dim=-1)
    scores_TE = logits_TE.sigmoid()
    return scores_TE / (scores_TE.sum(dim=-1, keepdim=True) + _SMALL)


def most_preferred(shares_TE: torch.Tensor, topk: int) -> torch.Tensor:
    """Return the experts that each token would choose without bias and groups, as a map `[T, E]`."""
    return _as_map(shares_TE.topk(topk, dim=-1).indices, shares_TE)


def imbalance(shares_NLE: torch.Tensor, counts_NE: torch.Tensor, *, length: int, topk: int) -> torch.Tensor:
    """Return the auxiliary loss of these tokens' share of each sequence, added up over sequences.

    It is `E / (K · L²) · Σ_e counts_e · Σ_t shares_te` (Fedus et al. 2021, equation 4), 1 for a sequence whose tokens
    go evenly to all experts. `counts_NE` are of whole sequences of `length` tokens; the shares may be of a part of
    them, and the losses of all parts add up to the whole. No gradient flows through counts.
    """
    scale = counts_NE.size(-1) / (topk * length * length)
    loss: torch.Tensor = scale * (shares_NLE.sum(dim=1) * counts_NE).sum()
    return loss


def entropy(shares_TE: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each token's shares in nats, added up over tokens: log E each if the router has no idea."""
    total: torch.Tensor = torch.special.entr(shares_TE).sum()
    return total


def moved(bias_E: torch.Tensor, counts_E: torch.Tensor, rate: float) -> torch.Tensor:
    """Return the bias after a step in which the experts had these numbers of tokens (Wang et al. 2024, algorithm 1)."""
    after_E: torch.Tensor = bias_E + rate * (counts_E.mean() - counts_E).sign().to(bias_E.dtype)
    return after_E


def _as_map(chosen_TK: torch.Tensor, like_TE: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like_TE, dtype=torch.bool).scatter(-1, chosen_TK, True)
