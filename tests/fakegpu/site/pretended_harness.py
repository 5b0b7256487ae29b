"""Numbers in place of what lies in memory, where harness decides by a result that the GPU has not computed.

Without them losses and norms are most often not finite, and the trainer refuses the step or the checkpoint. All that
computes them still runs. Each is the same at every step, so no curve can be taken for a real one.
"""

LOSS = 7.0
"""Nats a token, of every channel."""
NORM = 1.0
"""Of the gradients, and of each kind of optimizer state."""


def change_numbers_of_a_step(module):  # noqa: ANN001, ANN201
    """Replace what the host reads of a step, once it has waited for it (`harness.train.components.mcore`)."""
    read = module.Pipeline.read

    def read_numbers(self, sums, *numbers):  # noqa: ANN001, ANN002, ANN202
        totals, others = read(self, sums, *numbers)
        channels = len(totals.loss_sums)
        tokens = self._expected_tokens / channels
        totals = module.Totals(
            loss_sums=(LOSS * tokens,) * channels, num_tokens=(tokens,) * channels, flags=(0.0,) * len(totals.flags)
        )
        return totals, [NORM] * len(others)

    module.Pipeline.read = read_numbers


def change_norms_of_the_state(module):  # noqa: ANN001, ANN201
    """Replace the norms of optimizer states, which a checkpoint is held against (`harness.optim.mcore`)."""
    joint_norms = module.Optimizer.joint_norms

    def equal_norms(self, squares):  # noqa: ANN001, ANN202
        return dict.fromkeys(joint_norms(self, [NORM] * len(squares)), NORM)

    module.Optimizer.joint_norms = equal_norms
