"""Rules for a step in bf16: no large tensor that no kernel needs, few waits of the host. Each rule sees a breach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.config.schema import Config
from harness.trace.findings import StageFindings, Tensors

SEQ_LENGTH = 6144
WAITS = {"Pipeline.read": 1}
"""Waits of the host in a step, by function."""

TENSOR_PARALLEL = {"tensor_model_parallel_size": 2, "sequence_parallel": True}


def squares(findings: StageFindings) -> list[Tensors]:
    """Tensors with a number for each pair of tokens."""
    return [made for made in findings.made if made.made.shape.count(SEQ_LENGTH) > 1]


def fp32_as_large_as_logits(findings: StageFindings, num_logits: int) -> list[Tensors]:
    found = (made for made in findings.made if made.made.dtype in ("float32", "float64"))
    return [made for made in found if made.num_bytes // made.count >= 4 * num_logits]


def kept_projections(findings: StageFindings, config: Config) -> list[Tensors]:
    """Queries, keys and values before they are cut, at the peak: a view of the values would keep all of them."""
    model = config.model
    width = (model.num_attention_heads + 2 * model.query_groups) * model.head_size // 2
    return [held for held in findings.held if held.made.shape[-1:] == (width,)]


def waits(findings: StageFindings) -> dict[str, int]:
    counts: dict[str, int] = {}
    for wait in findings.host_waits:
        counts[wait.place.function] = counts.get(wait.place.function, 0) + wait.count
    return counts


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Config]) -> Config:
    return make_config(parallel=TENSOR_PARALLEL)


@pytest.fixture(scope="module")
def step(trace: Callable[..., StageFindings], config: Config) -> StageFindings:
    """Findings of the step as it is."""
    return trace(config, 2)


def with_scores_of_all_pairs() -> None:
    from torch.nn import functional

    from harness.trace import kernels

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        several = query.size(1) // key.size(1)
        key, value = (x.repeat_interleave(several, dim=1) for x in (key, value))
        return (query @ key.transpose(-1, -2)).softmax(-1) @ value

    kernels.STAND_INS[functional.scaled_dot_product_attention] = attention  # type: ignore[index]


def with_logits_in_fp32() -> None:
    from harness.model import mcore

    loss = mcore.cross_entropy
    mcore.cross_entropy = lambda logits, *arguments: loss(logits.float(), *arguments)


def with_views_of_the_projection() -> None:
    from harness.model import rotary
    from harness.model.rotary import Rotation

    def split(self: Any, mixed: Any, head_size: int, *, by_sample: bool) -> Any:
        query, key, value = rotary.split(mixed, head_size)
        return self(query), self(key), value

    Rotation.split = split  # type: ignore[method-assign]


def with_a_look_at_the_loss() -> None:
    from harness.train.components.mcore import Pipeline

    loss = Pipeline._loss

    def look(self: Any, loss_BS: Any, batch: Any) -> Any:
        assert loss_BS.sum().item() == 0
        return loss(self, loss_BS, batch)

    Pipeline._loss = look  # type: ignore[method-assign]


def with_weights_from_the_host() -> None:
    import torch

    from harness.train.components.mcore import Pipeline

    loss = Pipeline._loss

    def weigh(self: Any, loss_BS: Any, batch: Any) -> Any:
        weights = torch.tensor([1.0], device=loss_BS.device)
        return loss(self, loss_BS * weights, batch)

    Pipeline._loss = weigh  # type: ignore[method-assign]


def broken(findings: StageFindings, config: Config) -> Iterator[str]:
    if squares(findings):
        yield "pairs"
    if fp32_as_large_as_logits(findings, SEQ_LENGTH * config.model.padded_vocab_size // 2):
        yield "fp32"
    if kept_projections(findings, config):
        yield "projection"
    if waits(findings) != WAITS or findings.num_host_waits > 1:
        yield "waits"


def test_a_step_keeps_the_rules(step: StageFindings, config: Config) -> None:
    assert squares(step) == []
    assert fp32_as_large_as_logits(step, SEQ_LENGTH * config.model.padded_vocab_size // 2) == []
    assert kept_projections(step, config) == []
    assert waits(step) == WAITS
    assert step.num_host_waits == 1
    assert all(wait.place.file.startswith("harness/") and wait.place.line for wait in step.host_waits)


@pytest.mark.parametrize(
    ("breach", "rule", "kind"),
    [
        (with_scores_of_all_pairs, "pairs", None),
        (with_logits_in_fp32, "fp32", None),
        (with_views_of_the_projection, "projection", None),
        (with_a_look_at_the_loss, "waits", "item"),
        (with_weights_from_the_host, "waits", "tensor to device"),
    ],
)
def test_the_rules_see_what_they_forbid(
    trace: Callable[..., StageFindings], config: Config, breach: Callable[[], None], rule: str, kind: str | None
) -> None:
    findings = trace(config, 2, 0, breach)
    assert list(broken(findings, config)) == [rule]
    extra = [(wait.kind, wait.count) for wait in findings.host_waits if wait.place.function not in WAITS]
    assert extra == ([(kind, findings.num_microbatches)] if kind else [])


def test_collectives_are_counted_by_their_ranks(step: StageFindings, config: Config) -> None:
    layers, stream_bytes = config.model.num_layers, 2 * SEQ_LENGTH * config.model.hidden_size
    found = {each.kind: each for each in step.collectives if each.group == "tensor" and each.num_bytes >= stream_bytes}
    # Each half of a layer gathers its input, in backward again for the weight, and the gradient of its output. So does
    # the output layer with its input; the embedding gathers its gradient.
    gathered = step.num_microbatches * (6 * layers + 3)
    assert (found["all-gather"].count, found["all-gather"].num_bytes) == (gathered, gathered * stream_bytes)
    # Each half scatters its output and the gradient of its input, the embedding its output, the output layer the
    # gradient of its input.
    scattered = step.num_microbatches * (4 * layers + 2)
    assert (found["reduce-scatter"].count, found["reduce-scatter"].num_bytes) == (scattered, scattered * stream_bytes)
    assert {each.num_ranks for each in step.collectives} == {2}
