"""Asks the run for evidence of episodes, and keeps the findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.alerts.alert import Alert, Kind
from harness.errors import DataError
from harness.run.event_fields import NamedDocuments
from harness.run.event_types import Attributed
from harness.run.evidence import read_evidence
from harness.watch.announcer import Announcer
from harness.watch.attribution import attribute, named
from harness.watch.policy import AskEvidence
from harness.watch.saved_state import Examination
from harness.watch.situation import evidence_request
from harness.watch.verdict import TOTAL, OpenEpisode, Verdict

_MOST_KEPT = 20
_NAME = "watch-evidence"


@dataclass
class Inquiry:
    """The inquiries of one watcher."""

    announcer: Announcer

    def ask(self, action: AskEvidence, verdicts: Sequence[Verdict], episodes: Iterable[OpenEpisode]) -> None:
        """Ask once for evidence of the episode that the policy asks about."""
        state = self.announcer.state
        about = next(each for each in verdicts if each.kind == "confirmed" and each.start == action.first_step)
        if any(each.first <= about.start <= each.last for each in state.examinations):
            return  # another curve of the same episode
        request = evidence_request(action.first_step, action.last_step, state.step)
        first, last = request.steps
        asked = Examination(
            command=f"{_NAME}-{state.attempt:03d}-{first:07d}-{last:07d}",
            first=first,
            last=last,
            start=about.start,
            channel=about.channel,
            direction=about.direction,
            height=about.height,
        )
        if (path := state.evidence.pop(asked.command, None)) is not None:
            self._weigh(asked, Path(path), episodes)
        elif self.announcer.command(asked.command, request, f"loss of {about.channel} moved {about.direction}"):
            state.examinations.append(asked)

    def take(self, command: str, path: Path, episodes: Iterable[OpenEpisode]) -> None:
        """Weigh evidence from the run. Keep it if an earlier watcher, which was killed, had asked for it."""
        state = self.announcer.state
        asked = next((each for each in state.examinations if each.command == command), None)
        if asked is not None:
            state.examinations.remove(asked)
            self._weigh(asked, path, episodes)
        elif command.startswith(_NAME):
            state.evidence = {**dict(list(state.evidence.items())[-_MOST_KEPT:]), command: str(path)}

    def give_up(self, command: str) -> None:
        """Stop waiting for evidence that the run cannot give."""
        state = self.announcer.state
        state.examinations = [each for each in state.examinations if each.command != command]

    def _weigh(self, asked: Examination, path: Path, episodes: Iterable[OpenEpisode]) -> None:
        """Read evidence and note in the state whether it points to dirty documents."""
        announcer = self.announcer
        try:
            samples = read_evidence(path)
        except DataError as error:
            announcer.outputs.show(f"warning: {error}")
            return
        channel = None if asked.channel == TOTAL else asked.channel
        found = attribute(samples, channel=channel, direction=asked.direction, start=asked.start, height=asked.height)
        attributed = Attributed(
            attempt=announcer.state.attempt,
            step=announcer.state.step,
            start=asked.start,
            channel=asked.channel,
            dirty=found.dirty,
            reason=found.text,
            documents=tuple(NamedDocuments.model_validate(each) for each in found.documents()),
            evidence=str(path),
        )
        event_id = f"attributed-{asked.command}"
        announcer.event(event_id, attributed)
        documents = f": {named(found)}" if found.dirty_samples else ""
        text = f"loss of {asked.channel} since step {asked.start}: {found.text}{documents}"
        told = Alert(key=event_id, kind=Kind.ATTRIBUTED, text=text, step=asked.start, channel=asked.channel)
        announcer.alert(told, event_id)
        if found.dirty:
            related = [each.start for each in episodes if each.start <= asked.last]
            announcer.state.dirty_starts = sorted({*announcer.state.dirty_starts, asked.start, *related})
