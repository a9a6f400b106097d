"""benchmarks/quickstart.py: what counts as a gain, what it makes of a run, and that the shipped results show it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import quickstart
from scaleprior.study import load_spec

REPO = Path(__file__).resolve().parents[2]
LADDER = {0: (4.0, 5.0), 32: (6.0, 5.5), 256: (7.0, 8.0), 2048: (8.0, 10.0)}


def rows(arch: str = "R-50", *, changed: Mapping[int, tuple[float, ...]] | None = None) -> list[dict[str, object]]:
    aps = {**LADDER, **(changed or {})}
    return [{"arch": arch, "images": n, "seed": s, "ap": ap} for n, seeds in aps.items() for s, ap in enumerate(seeds)]


def test_a_gain_is_held_against_twice_the_pooled_standard_deviation() -> None:
    scratch, lowest = quickstart.gains(rows())
    # Two seeds that differ by d have d^2 / 2 of squared deviations, and one degree of freedom each:
    # (1 + 0.25 + 1 + 4) / 2 / 4 = 0.78125, of which the root is 0.8839.
    assert (scratch.images, lowest.images) == (0, 32)
    assert (scratch.gain, lowest.gain) == (4.5, 3.25)  # 9 - 4.5 and 9 - 5.75
    assert scratch.spread == lowest.spread == pytest.approx(2 * 0.8839, abs=1e-4)
    assert scratch.holds
    wide, _ = quickstart.gains(rows(changed={0: (0.0, 9.0)}))
    assert (wide.gain, wide.holds) == (4.5, False)  # (81 + 0.25 + 1 + 4) / 8 = 10.78, twice its root is 6.57
    assert wide.spread == pytest.approx(6.567, abs=1e-3)


@pytest.mark.parametrize("lacking", [{0: ()}, {2048: (8.0,)}])
def test_no_spread_without_two_seeds_and_no_gain_without_scratch(lacking: dict[int, tuple[float, ...]]) -> None:
    with pytest.raises(SystemExit, match="R-50: need from scratch, two rungs and two seeds each"):
        quickstart.gains(rows(changed=lacking))


@pytest.mark.parametrize(("busy", "met"), [(False, False), (True, True)])
def test_the_last_line_says_all(busy: bool, met: bool, capsys: pytest.CaptureFixture[str]) -> None:
    said = {
        "results": [*rows(), *rows("R-152")],
        "seconds": {"pretrain": 100.0, "finetune": 60.0},
        "bare_step": {"seconds": 0.5, "cpu_seconds": 0.2},
    }
    quickstart.report(said, wall=500.0, own_cpu=20.0, busy=busy)
    *people, last = capsys.readouterr().out.splitlines()
    line = json.loads(last)
    assert list(line) == ["bench", "figures", "targets", "met", "commit"]
    assert line["figures"]["bare_steps"] == 1000  # 500 / 0.5
    assert line["figures"]["bare_steps_of_cpu"] == 500  # (20 + 160 / 2) / 0.2
    assert line["met"] is met
    assert line["figures"]["R-152 over scratch"] == 4.5
    assert len(people) == 6


def test_the_shipped_results_are_of_the_shipped_spec_and_show_what_the_quickstart_is_for() -> None:
    with open(REPO / "examples" / "quickstart_results.csv", encoding="utf-8", newline="") as file:
        shipped = list(csv.DictReader(file))
    spec = load_spec("studies/quickstart.yaml")
    cells = {(arch, n, seed) for arch in spec.architectures for n in (0, *spec.ladder) for seed in spec.seeds}
    assert {(row["arch"], int(row["images"]), int(row["seed"])) for row in shipped} == cells
    assert len(spec.seeds) >= 2
    found = quickstart.gains(shipped)
    assert {(gain.arch, gain.images) for gain in found} == {
        (arch, n) for arch in spec.architectures for n in (0, spec.ladder[0])
    }
    assert all(gain.holds for gain in found), found
