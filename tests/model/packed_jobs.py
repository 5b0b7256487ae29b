"""Job for the pool: the same documents packed into samples, and each alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from harness.config.schema import Config

LENGTHS = [[5, 1, 12, 7], [24, 1], [3] * 8 + [1]]
"""Tokens of the documents of each row of 25."""


def losses_and_gradients(
    rank: int, world_size: int, init_method: str, config: Config, packed: bool
) -> tuple[list[float], dict[str, np.ndarray[Any, Any]]]:
    """The loss of every token that counts, in order, and the gradient of their sum, by parameter."""
    import numpy as np
    import torch

    from harness.data.batch import collate
    from harness.model.attention.bounds import documents_at
    from harness.model.further_tokens.tally import losses_in
    from harness.model.mcore import build_model
    from harness.parallel import mcore as parallel
    from harness.plan.plan import make_plan

    plan, device = make_plan(config, world_size), torch.device("cpu")
    ranks = parallel.start(plan.layout, rank=rank, device=device, seed=config.run.seed, init_method=init_method)
    numbers = np.random.default_rng(5)
    rows = [[numbers.integers(0, config.model.vocab_size, length) for length in row] for row in LENGTHS]
    try:
        (chunk,) = build_model(config, plan, ranks, device)
        model, losses = chunk.module, []
        for tally in losses_in(model):
            tally.begin(1.0)

        def run(tokens: np.ndarray[Any, Any], counts: list[list[int]]) -> None:
            batch = collate(tokens, counts, np.zeros(len(tokens), dtype=np.int64), reset_at_document_borders=True)
            assert batch.document_starts is not None
            documents = documents_at(batch.document_starts) if packed else None
            loss_BS = model(batch.tokens_BS, None, documents, labels=batch.labels_BS, loss_mask=batch.loss_mask_BS)
            (loss_BS * batch.loss_mask_BS).sum().backward()
            losses.extend(loss_BS[batch.loss_mask_BS > 0].tolist())

        if packed:
            run(np.stack([np.concatenate(row) for row in rows]), LENGTHS)
        else:
            for document in (document for row in rows for document in row if len(document) > 1):
                run(document[None], [[len(document)]])
        return losses, {name: p.main_grad.detach().numpy().copy() for name, p in model.named_parameters()}
    finally:
        parallel.end()
