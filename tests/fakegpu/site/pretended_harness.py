"""Numbers in place of what lies in memory, where harness decides by a result that the GPU has not computed.

Without them losses and norms are most often not finite, and the trainer refuses the step or the checkpoint. All that
computes them still runs. Each is the same at every step, so no curve can be taken for a real one.
"""

LOSS = 7.0
"""Nats a token, of every channel."""
NORM = 1.0
"""Of the gradients, and of each kind of optimizer state."""


def change_sums(module):  # noqa: ANN001, ANN201
    """Replace the result of the one reduction of a step (`harness.train.components.mcore`)."""
    reduce = module.Pipeline._reduce

    def reduce_to_numbers(self):  # noqa: ANN001, ANN202
        totals = reduce(self)
        channels = len(totals.loss_sums)
        tokens = self._expected_tokens / channels
        return module.Totals(
            loss_sums=(LOSS * tokens,) * channels, num_tokens=(tokens,) * channels, flags=(0.0,) * len(totals.flags)
        )

    module.Pipeline._reduce = reduce_to_numbers


def change_norms(module):  # noqa: ANN001, ANN201
    """Replace the norms of gradients and of optimizer states (`harness.optim.mcore`)."""
    prepare, state_norms = module.Optimizer.prepare, module.Optimizer.state_norms

    def prepare_with_norm(self):  # noqa: ANN001, ANN202
        prepare(self)
        return NORM

    def equal_norms(self):  # noqa: ANN001, ANN202
        return dict.fromkeys(state_norms(self), NORM)

    module.Optimizer.prepare, module.Optimizer.state_norms = prepare_with_norm, equal_norms
