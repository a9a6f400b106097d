"""The quickstart on this machine: how long, in bare training steps, and does it still show what it is for?

    python benchmarks/quickstart.py                    # runs it in a folder of its own; minutes
    python benchmarks/quickstart.py --out FOLDER       # ... in FOLDER, and leaves its report there
    python benchmarks/quickstart.py --busy             # on a machine that others use, too

Peer: a bare R-152 training step of the quickstart's own batch and size (``pretrain/costs/bare_step.py``), timed in the
same run. Target: the whole takes the time of at most 900 of them on two cores, which is five minutes where one takes a
third of a second.

On a busy machine the wall's clock says nothing, so ``--busy`` counts CPU seconds instead: those of the command's own
process, and those of all cells shared out over two cores, in the CPU seconds of a bare step.

The conclusions, for each depth: AP at the top of the ladder exceeds AP from scratch, and AP of the lowest rung, by more
than the spread over seeds. Means over seeds are compared; the spread is twice the standard deviation over seeds, pooled
over the fractions of that depth: at two seeds each about the half width of the report's 90 % interval of a change over
from scratch, t(0.95) = 2.13 of 4 degrees of freedom times that standard deviation.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.commit import commit

REPO = Path(__file__).resolve().parents[1]
STEPS = 900.0  # target
_CORES = 2


@dataclass(frozen=True)
class Gain:
    """What pretraining on the top of the ladder gains over another fraction, in AP.

    Attributes:
        images: of that fraction; 0 is from scratch.
        gain: difference of means over seeds. spread: see the module's text.
    """

    arch: str
    images: int
    gain: float
    spread: float

    @property
    def holds(self) -> bool:
        """More than the spread over seeds."""
        return self.gain > self.spread


def gains(rows: Iterable[Mapping[str, Any]]) -> list[Gain]:
    """Of each architecture: the top of its ladder over from scratch, and over the lowest rung.

    Args:
        rows: of ``results.csv``.
    """
    aps: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        aps.setdefault(str(row["arch"]), {}).setdefault(int(row["images"]), []).append(float(row["ap"]))
    found = []
    for arch, by_images in aps.items():
        scratch, lowest, *_, top = sorted(by_images)
        if scratch or len(by_images) < 3 or any(len(seeds) < 2 for seeds in by_images.values()):
            raise SystemExit(f"{arch}: need from scratch, two rungs and two seeds each, got {by_images}")
        mean = {images: statistics.mean(seeds) for images, seeds in by_images.items()}
        squares = sum((ap - mean[images]) ** 2 for images, seeds in by_images.items() for ap in seeds)
        spread = 2 * math.sqrt(squares / sum(len(seeds) - 1 for seeds in by_images.values()))
        found += [Gain(arch, images, mean[top] - mean[images], spread) for images in (scratch, lowest)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the study, which must be new (default: a temporary one)")
    parser.add_argument("--busy", action="store_true", help="count CPU seconds: others use this machine, too")
    args = parser.parse_args()
    if args.out is not None and args.out.exists():
        parser.error(f"--out {args.out} is there already: what is finished would not be run again")
    with tempfile.TemporaryDirectory() as folder:
        said, wall, own_cpu = run(args.out or Path(folder) / "quickstart")
    report(said, wall, own_cpu, busy=args.busy)
    return 0


def run(out: Path) -> tuple[dict[str, Any], float, float]:
    """What ``quickstart --json`` says, and the wall and CPU seconds of its own process."""
    command = [sys.executable, "-m", "scaleprior", "quickstart", "--out", str(out), "--jobs", str(_CORES), "--json"]
    path = os.pathsep.join((str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])))
    begun, before = time.monotonic(), os.times()
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True)
    after = os.times()
    own = after.children_user - before.children_user + after.children_system - before.children_system
    return json.loads(done.stdout), time.monotonic() - begun, own


def report(said: Mapping[str, Any], wall: float, own_cpu: float, *, busy: bool) -> None:
    """Print the tables and, as the last line, JSON."""
    step, cells_cpu = said["bare_step"], sum(said["seconds"].values())
    found = gains(said["results"])
    print(f"{'':8}{'against':>14}{'AP gained':>12}{'spread':>9}")
    for gain in found:
        images = f"{gain.images:,} images" if gain.images else "from scratch"
        print(f"{gain.arch:8}{images:>14}{gain.gain:>+12.2f}{gain.spread:>9.2f}{'' if gain.holds else '  NOT MORE'}")
    figures = {
        "wall_seconds": round(wall, 1),
        "bare_step_seconds": step["seconds"],
        "bare_steps": round(wall / step["seconds"]),
        "cells_cpu_seconds": round(cells_cpu, 1),
        "own_cpu_seconds": round(own_cpu, 1),
        "bare_step_cpu_seconds": step["cpu_seconds"],
        "bare_steps_of_cpu": round((own_cpu + cells_cpu / _CORES) / step["cpu_seconds"]),
        **{f"{g.arch} over {g.images or 'scratch'}": round(g.gain, 2) for g in found},
        **{f"{g.arch} over {g.images or 'scratch'}, spread": round(g.spread, 2) for g in found},
    }
    counted = "bare_steps_of_cpu" if busy else "bare_steps"
    print(f"{wall:.0f} s, {figures[counted]} bare steps{' of CPU time, shared out over two cores' if busy else ''}")
    met = figures[counted] <= STEPS and all(gain.holds for gain in found)
    targets = {counted: STEPS, "gain": "above the spread"}
    print(json.dumps({"bench": "quickstart", "figures": figures, "targets": targets, "met": met, "commit": commit()}))


if __name__ == "__main__":
    sys.exit(main())
