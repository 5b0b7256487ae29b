"""The page of the alerts and of the states of a run: what each means, from the enumerations in the code."""

from __future__ import annotations

from docs.generate.docstrings import members_of
from harness.alerts.alert import SEVERITIES, Kind, Severity
from harness.run_state.state import Word

_HEAD = """\
# Alerts and states

[operations.md](../operations.md#who-is-told-what-and-when) says how alerts reach people, and what happens in which
situation. This page is made from `harness/alerts/alert.py` and `harness/run_state/state.py`.
"""
_STATES = """\
## States of a run

`harness status` says one of these words, with the reason. `failed` and `gone`: nothing brings the run back by itself.
"""


def alerts_page() -> str:
    """Return the page: the kinds of alerts by severity, and the states."""
    texts = members_of(Kind)
    parts = [_HEAD]
    for severity, text in members_of(Severity).items():
        kinds = SEVERITIES[Severity(severity)]
        parts.append(f"## `{severity}`\n\n{text}\n")
        parts.append("\n".join(f"- `{kind}`: {texts[kind]}" for kind in kinds) + "\n")
    parts.append(_STATES)
    parts.append("\n".join(f"- `{word}`: {text}" for word, text in members_of(Word).items()) + "\n")
    return "\n".join(parts)
