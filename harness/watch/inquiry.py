"""Asks the run for evidence of an episode, and remembers what the evidence says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import DataError
from harness.run.commands.command import OrderKind
from harness.watch.announcer import Telling
from harness.watch.attribution import attribute, named, read_evidence
from harness.watch.policy import AskEvidence
from harness.watch.saved_state import Examination
from harness.watch.situation import evidence_request
from harness.watch.verdict import TOTAL, OpenEpisode, Verdict

_MOST_KEPT = 20
_NAME = "watch-evidence"


@dataclass
class Inquiry:
    """The inquiries of one watcher."""

    telling: Telling

    def ask(self, action: AskEvidence, verdicts: Sequence[Verdict], episodes: Iterable[OpenEpisode]) -> None:
        """Orders evidence of the episode that the policy wants to know more of, once."""
        memory = self.telling.memory
        about = next(each for each in verdicts if each.kind == "confirmed" and each.start == action.first_step)
        if any(each.first <= about.start <= each.last for each in memory.examinations):
            return  # another curve of the same episode
        request = evidence_request(action.first_step, action.last_step, memory.step)
        first, last = request.steps
        asked = Examination(
            order=f"{_NAME}-{memory.attempt:03d}-{first:07d}-{last:07d}",
            first=first,
            last=last,
            start=about.start,
            channel=about.channel,
            direction=about.direction,
            height=about.height,
        )
        if (path := memory.evidence.pop(asked.order, None)) is not None:
            self._weigh(asked, Path(path), episodes)
        elif self.telling.order(
            asked.order, OrderKind.EVIDENCE, f"loss of {about.channel} moved {about.direction}", request
        ):
            memory.examinations.append(asked)

    def hear(self, order: str, path: Path, episodes: Iterable[OpenEpisode]) -> None:
        """Weighs evidence; what a watcher had asked for that was killed then is kept until it is asked for again."""
        memory = self.telling.memory
        asked = next((each for each in memory.examinations if each.order == order), None)
        if asked is not None:
            memory.examinations.remove(asked)
            self._weigh(asked, path, episodes)
        elif order.startswith(_NAME):
            memory.evidence = {**dict(list(memory.evidence.items())[-_MOST_KEPT:]), order: str(path)}

    def hear_refused(self, order: str) -> None:
        """Waits no longer for evidence that the run cannot give."""
        memory = self.telling.memory
        memory.examinations = [each for each in memory.examinations if each.order != order]

    def _weigh(self, asked: Examination, path: Path, episodes: Iterable[OpenEpisode]) -> None:
        """Reads evidence and remembers whether it points to dirty documents."""
        telling = self.telling
        try:
            samples = read_evidence(path)
        except DataError as error:
            telling.hands.say(f"warning: {error}")
            return
        channel = None if asked.channel == TOTAL else asked.channel
        found = attribute(samples, channel=channel, direction=asked.direction, start=asked.start, height=asked.height)
        is_news = telling.event(
            f"attributed-{asked.order}",
            "attributed",
            start=asked.start,
            channel=asked.channel,
            dirty=found.dirty,
            reason=found.text,
            documents=found.documents(),
            evidence=str(path),
        )
        documents = f": {named(found)}" if found.guilty else ""
        if is_news:
            telling.tell("attributed", f"loss of {asked.channel} since step {asked.start}: {found.text}{documents}")
        if found.dirty:
            related = [each.start for each in episodes if each.start <= asked.last]
            telling.memory.dirty_starts = sorted({*telling.memory.dirty_starts, asked.start, *related})
