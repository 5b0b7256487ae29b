"""Hypothesis draws the same examples on every run, so that a failure is seen by everybody."""

from hypothesis import settings

settings.register_profile("same-everywhere", derandomize=True, deadline=None)
settings.load_profile("same-everywhere")
