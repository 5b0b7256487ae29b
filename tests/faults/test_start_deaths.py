"""Whoever dies while a launch starts: the others end within seconds, and the next start succeeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from disturbed_runs import campaign_site
from process_runs import Site, kill_all
from start_deaths import STAGES, VICTIMS, Start, is_free, kill_at, left_over


def small_site(root: Path) -> Site:
    site = campaign_site(root)
    site.config["run"]["stop_at_step"] = 2
    return site


def require_gone(site: Site, stage: str, victims: str, *, cold: bool = False) -> None:
    known: list[int] | None = None
    for _ in range(3):  # now and then a stage is over before the kill comes
        start = Start.of(site, cold=cold)
        with start.command:
            known = kill_at(start, stage, VICTIMS[victims])
            if known is not None:
                left = left_over(start.command, known)
                kill_all(known)
                assert left == []
                break
    assert known is not None, "nobody was killed"
    assert is_free(site)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_launcher_and_a_rank_die_at_a_stage_of_the_start(stage: str, tmp_path: Path) -> None:
    site = small_site(tmp_path)
    require_gone(site, stage, "the launcher and a rank", cold=stage == "import")
    code, text = site.train().finish()
    assert code == 0, text


def test_the_launcher_alone_or_a_rank_alone_dies_while_ranks_meet(tmp_path: Path) -> None:
    site = small_site(tmp_path)
    require_gone(site, "rendezvous", "the launcher")
    require_gone(site, "rendezvous", "a rank")
    code, text = site.train().finish()
    assert code == 0, text


@pytest.mark.slow
def test_the_launcher_and_a_rank_die_while_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    site = small_site(tmp_path)
    code, text = site.train().finish()
    assert code == 0, text
    site.config["run"]["stop_at_step"] = 4
    require_gone(site, "data opened, loading", "the launcher and a rank")
    code, text = site.train().finish()
    assert code == 0, text
    assert site.last_step() == 4
