"""The choice of experts is Megatron's, and what balances them does what its formula says."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from harness.model.experts.routing import Rules, choose, entropy, imbalance, most_preferred, moved, shares

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Megatron warns of every optional package that is missing
    from megatron.core.transformer.moe import moe_utils


def rules(**changes: Any) -> Rules:
    usual: dict[str, Any] = {
        "topk": 2,
        "score_function": "softmax",
        "pre_softmax": False,
        "num_groups": None,
        "group_topk": None,
        "group_scores": None,
        "topk_scaling_factor": 1.0,
    }
    return Rules(**{**usual, **changes})


ROUTERS = {
    "mixtral": rules(),
    "qwen2-moe": rules(pre_softmax=True, topk=4),
    "deepseek-v2 by two scores": rules(pre_softmax=True, topk=4, num_groups=4, group_topk=2, topk_scaling_factor=16.0),
    "deepseek-v3": rules(score_function="sigmoid", topk=4, num_groups=4, group_topk=2, topk_scaling_factor=2.5),
    "sigmoid-top-1": rules(score_function="sigmoid", topk=1),
    "softmax-top-1": rules(pre_softmax=True, topk=1),
}


SIGMOID = {name: router for name, router in ROUTERS.items() if router.score_function == "sigmoid"}
CHOICES = [(name, False) for name in ROUTERS] + [(name, True) for name in SIGMOID]


@pytest.mark.parametrize(("name", "has_bias"), CHOICES)
def test_the_choice_is_megatrons(name: str, has_bias: bool) -> None:
    router = ROUTERS[name]
    torch.manual_seed(1)
    logits_TE, bias_E = torch.randn(64, 16), torch.randn(16) if has_bias else None
    weights, chosen = choose(logits_TE, bias_E, router)
    theirs = moe_utils.topk_routing_with_score_function(
        logits_TE,
        router.topk,
        use_pre_softmax=router.pre_softmax,
        num_groups=router.num_groups,
        group_topk=router.group_topk,
        scaling_factor=router.topk_scaling_factor,
        score_function=router.score_function,
        expert_bias=bias_E,
    )
    assert torch.equal(chosen, theirs[1].bool())
    assert torch.allclose(weights, theirs[0], atol=1e-7)
    assert chosen.sum(dim=-1).tolist() == [router.topk] * 64


def test_groups_by_their_best_score_are_those_of_deepseek_v2() -> None:
    from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter

    torch.manual_seed(6)
    config = DeepseekV2Config(
        hidden_size=16,
        num_attention_heads=4,
        n_routed_experts=16,
        num_experts_per_tok=6,
        n_group=8,
        topk_group=3,
        topk_method="group_limited_greedy",
        routed_scaling_factor=16.0,
    )
    router = DeepseekV2TopkRouter(config)
    torch.nn.init.eye_(router.weight)
    logits_TE = torch.randn(64, 16)
    _, their_weights, their_choice = router(logits_TE)
    ours = rules(pre_softmax=True, topk=6, num_groups=8, group_topk=3, group_scores=1, topk_scaling_factor=16.0)
    weights, chosen = choose(logits_TE, None, ours)
    theirs = torch.zeros(64, 16).scatter(-1, their_choice, their_weights)
    assert torch.equal(chosen, theirs > 0)
    assert torch.allclose(weights, theirs)
    by_two = choose(logits_TE, None, rules(pre_softmax=True, topk=6, num_groups=8, group_topk=3))[1]
    assert not torch.equal(chosen, by_two)


def test_a_bias_changes_the_choice_and_no_weight() -> None:
    logits_TE = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sigmoid = rules(score_function="sigmoid", topk=1)
    weights, chosen = choose(logits_TE, torch.tensor([0.0, 0.0, 0.0, 9.0]), sigmoid)
    assert chosen.tolist() == [[False, False, False, True]]
    assert float(weights[0, 3]) == pytest.approx(1 / (1 + math.e))


def test_gradients_reach_the_logits_of_the_chosen_only_by_their_weights() -> None:
    logits_TE = torch.randn(8, 6, generator=torch.Generator().manual_seed(2)).requires_grad_()
    weights, chosen = choose(logits_TE, None, rules(score_function="sigmoid"))
    (weights * torch.arange(6)).sum().backward()
    assert logits_TE.grad is not None
    assert (logits_TE.grad[~chosen] == 0).all()
    assert (logits_TE.grad[chosen] != 0).all()


@pytest.mark.parametrize("topk", [1, 3])
def test_imbalance_is_megatrons_and_one_if_experts_are_even(topk: int) -> None:
    torch.manual_seed(3)
    shares_TE = torch.randn(32, 8).softmax(-1)
    counts_E = most_preferred(shares_TE, topk).sum(0)
    ours = imbalance(shares_TE[None], counts_E[None], length=32, topk=topk)
    theirs = moe_utils.switch_load_balancing_loss_func(
        probs=shares_TE,
        tokens_per_expert=counts_E,
        total_num_tokens=32,
        topk=topk,
        num_experts=8,
        moe_aux_loss_coeff=1.0,
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
    even_TE, even_E = torch.full((32, 8), 1 / 8), torch.full((8,), 32 * topk / 8)
    assert float(imbalance(even_TE[None], even_E[None], length=32, topk=topk)) == pytest.approx(1.0)


def test_the_losses_of_parts_of_a_sequence_add_up_to_that_of_the_whole() -> None:
    torch.manual_seed(4)
    shares_TE = torch.randn(12, 4).softmax(-1)
    counts_NE = most_preferred(shares_TE, 2).sum(0)[None]
    whole = imbalance(shares_TE[None], counts_NE, length=12, topk=2)
    parts = [imbalance(part[None], counts_NE, length=12, topk=2) for part in (shares_TE[:5], shares_TE[5:])]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_shares_add_up_to_one_and_have_the_entropy_of_their_spread() -> None:
    logits_TE = torch.zeros(5, 8)
    for function in ("sigmoid", "softmax"):
        even = shares(logits_TE, rules(score_function=function))
        assert even.sum(dim=-1).tolist() == pytest.approx([1.0] * 5)
        assert float(entropy(even)) == pytest.approx(5 * math.log(8))
    certain = shares(torch.tensor([[1e4, 0.0, 0.0]]), rules())
    assert float(entropy(certain)) == 0.0


def test_biases_move_towards_equal_numbers_of_tokens() -> None:
    bias = moved(torch.tensor([0.0, 0.5, -0.5, 0.0]), torch.tensor([10.0, 20.0, 0.0, 10.0]).double(), 0.1)
    assert bias.tolist() == pytest.approx([0.0, 0.4, -0.4, 0.0])
    assert bias.dtype is torch.float32
