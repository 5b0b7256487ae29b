"""The learning rate as the trainer uses it; defined in `harness.plan`, which shows it before a run starts."""

from harness.plan.schedule import learning_rate

__all__ = ["learning_rate"]
