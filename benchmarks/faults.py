"""The fault campaign on real training processes: `python -m benchmarks.faults --seed 1 --minutes 30`.

Trials are drawn from the seed, one after the other, until the time is over; then it reports how many faults of every
family were thrown and what broke. Leaves with 1 if anything did. `--trial N` plays one trial of the seed again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "train"))

from fault_campaign import Report, Trial, campaign_site  # noqa: E402 (it lives with the tests)


def main() -> int:
    """Throws faults until the time is over; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--faults", type=int, default=8, help="Faults in one trial.")
    parser.add_argument("--trial", type=int, help="Play only this trial of the seed.")
    arguments = parser.parse_args()
    report, ends = Report(), time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="harness-faults-") as folder:
        undisturbed = campaign_site(Path(folder) / "undisturbed")
        code, text = undisturbed.train().finish()
        if code != 0:
            sys.stderr.write(text)
            return code
        expected = undisturbed.losses()
        for number in count() if arguments.trial is None else [arguments.trial]:
            if arguments.trial is None and time.monotonic() > ends:
                break
            site = campaign_site(Path(folder) / f"trial-{number}", async_save=number % 2 == 1)
            Trial(site, f"{arguments.seed}:{number}", expected, report).run(arguments.faults)
            sys.stdout.write(f"trial {number}: {report}\n\n")
            sys.stdout.flush()
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
