"""One visit to a machine with a GPU: installs what is missing, measures, tests, and writes results as it goes.

    PYTHON tests/visit/gpu_visit.py [bench|tests|long|saves|all]       (`make gpu`, `make gpu PART=bench`)

It takes the Python that runs it, with its torch, and changes nothing in it. It needs nothing else: no index if
`.gpu/wheels` has been carried along (`make gpu-wheels`), and no terminal. On one H100 `bench`, `tests`, `long` and
`saves` end within six minutes each; a part that hangs is ended at its limit, and the rest goes on. Results are in
`.gpu/results`, or where `$OUT` says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpu_packages
from gpu_packages import ROOT, VisitError
from limited import Part, run_parts, summary_text

FIGURES = "bench.jsonl"
CALL_LIMIT_S = 350.0
"""Of `bench`, of `tests`, of `long`, and of `saves`; what is installed before is counted in."""
SECONDS_TO_PROFILE = 40.0
"""From the end of the timed steps to the end of the benchmark: two steps, one of them profiled."""

_PROBE = """
import json, torch
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print(json.dumps({"torch": torch.__version__, "gpu": gpu}))
"""


def parts_of(what: str, out: Path, times: float) -> list[Part]:
    """Return the parts of `bench`, `tests`, `long`, `saves` or `all`, their limits multiplied."""

    def part(name: str, limit_s: float, *arguments: str) -> Part:
        return Part(name=name, limit_s=times * limit_s, command=(sys.executable, *arguments))

    def bench(model: str, limit_s: float) -> Part:
        seconds = str(times * limit_s - SECONDS_TO_PROFILE)
        options = ("--model", model, "--seconds", seconds, "--json", str(out / FIGURES))
        return part(model, limit_s, "-m", "benchmarks.gpu", *options)

    def tests(name: str, limit_s: float, file: str, *options: str) -> Part:
        plugins = ("-p", "pytest_timeout", "-p", "no:cacheprovider", f"--timeout={times * limit_s:.0f}")
        return part(name, limit_s, "-m", "pytest", *plugins, "-rs", *options, "-m", "gpu", f"tests/gpu/{file}")

    machine = part("machine", 20, "-m", "benchmarks.measured_machine")
    benches = [bench("llama3.2-1b", 145), bench("llama3-8b-8-layers", 180)]
    tested = [tests("kernels", 110, "test_gpu_kernels.py"), tests("runs", 230, "test_gpu_runs.py")]
    long = [tests("long-samples", 130, "test_gpu_long_samples.py"), bench("llama3.2-1b-32k", 150)]
    saves = [tests("saves", 150, "test_gpu_saves.py", "-s")]  # it writes what training is stalled for
    of = {"bench": benches, "tests": tested, "long": long, "saves": saves}
    of["all"] = [each for parts in list(of.values()) for each in parts]
    return [machine, *of[what]]


def look() -> dict[str, Any]:
    """Return the version of torch and the name of the GPU.

    Raises:
        VisitError: There is no torch, or it sees no GPU.
    """
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise VisitError(f"{sys.executable} cannot load torch ({last}): name a Python that can, `make gpu PYTHON=...`")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["gpu"] is None:
        raise VisitError(
            f"torch {found['torch']} of {sys.executable} sees no GPU, so nothing is measured; `make gpu-dry` runs all "
            "of this on a pretended one"
        )
    return found


def prepare(wheels: Path, site: Path) -> None:
    """Install what is missing into the folder `site`, and compile it.

    Compiling comes first because megatron-core warns of its own syntax when it is compiled, and a warning is an error
    in our tests.
    """
    pinned = gpu_packages.pins((ROOT / "constraints.txt").read_text(), sys.version_info[:2])
    gpu_packages.install(gpu_packages.missing(pinned, site), wheels, site)
    folders = [str(ROOT / name) for name in ("harness", "data_prep", "benchmarks")] + [str(site)] * site.is_dir()
    command = [sys.executable, "-W", "ignore", "-m", "compileall", "-q", "-j", "0", *folders]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def environment_with(site: Path) -> dict[str, str]:
    """Return the environment of the parts: packages of the visit first, then the checkout, then what was there."""
    path = [str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    given = dict(os.environ)
    # A machine without a network has no other interface that gloo and NCCL could find.
    given.setdefault("GLOO_SOCKET_IFNAME", "lo")
    given.setdefault("NCCL_SOCKET_IFNAME", "lo")
    # Plugins of the machine's pytest may warn, and a warning is an error in our tests.
    given["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return given | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def visit(what: str, out: Path, wheels: Path, times: float) -> int:
    """Run the parts; 0 if all went well."""
    begun = time.monotonic()
    found = look()
    site = ROOT / ".gpu" / f"site-{sys.version_info.major}.{sys.version_info.minor}"
    prepare(wheels, site)
    out.mkdir(parents=True, exist_ok=True)
    if what != "tests":
        (out / FIGURES).unlink(missing_ok=True)  # the benchmark appends to it
    taken = time.monotonic() - begun
    sys.stdout.write(f"== {found['gpu']}, torch {found['torch']}: ready after {taken:.0f} s; results in {out}\n")
    sys.stdout.flush()
    outcomes = run_parts(
        parts_of(what, out, times),
        out / f"summary_{what}.json",
        about={"gpu": found["gpu"], "torch": found["torch"], "preparation_s": round(taken, 1)},
        environment=environment_with(site),
        limit_s=times * CALL_LIMIT_S * (4 if what == "all" else 1) - taken,
    )
    sys.stdout.write(f"\n{found['gpu']}, {time.monotonic() - begun:.0f} s in all\n{summary_text(outcomes)}\n")
    if found["gpu"].startswith("pretended"):
        sys.stdout.write("This GPU is pretended: no figure here is a speed, and no value was compared.\n")
    return 0 if all(outcome.outcome == "ok" for outcome in outcomes) else 1


def main(arguments: Sequence[str]) -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Benchmark and tests on the GPU of this machine.")
    parser.add_argument("what", nargs="?", choices=["bench", "tests", "long", "saves", "all"], default="all")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT") or ROOT / ".gpu" / "results")
    parser.add_argument(
        "--wheels", type=Path, default=gpu_packages.WHEELS, help="used, without an index, if it is there"
    )
    parser.add_argument("--limits-times", type=float, default=1.0, help="for machines that are slower than theirs")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    try:
        return visit(options.what, Path(options.out).resolve(), options.wheels.resolve(), options.limits_times)
    except VisitError as error:
        sys.stderr.write(f"{error}\n")
        return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
