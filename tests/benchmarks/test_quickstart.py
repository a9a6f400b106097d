"""benchmarks/quickstart.py: what counts as a gain, and what it makes of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from benchmarks import quickstart

LADDER = {0: (4.0, 5.0), 32: (6.0, 5.5), 256: (0.0, 9.0), 2048: (8.0, 10.0)}


def rows(arch: str = "R-50", *, changed: Mapping[int, tuple[float, ...]] | None = None) -> list[dict[str, object]]:
    aps = {**LADDER, **(changed or {})}
    return [{"arch": arch, "images": n, "seed": s, "ap": ap} for n, seeds in aps.items() for s, ap in enumerate(seeds)]


def test_a_gain_is_held_against_the_larger_spread_of_its_two_fractions() -> None:
    scratch, lowest = quickstart.gains(rows())
    # (8 + 10) / 2 - (4 + 5) / 2, and - (6 + 5.5) / 2; the top's seeds differ by 2, and the middle does not count
    assert (scratch.images, scratch.gain, scratch.spread, scratch.holds) == (0, 4.5, 2.0, True)
    assert (lowest.images, lowest.gain, lowest.spread, lowest.holds) == (32, 3.25, 2.0, True)
    wide, _ = quickstart.gains(rows(changed={0: (2.0, 7.0)}))
    assert (wide.gain, wide.spread, wide.holds) == (4.5, 5.0, False)


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
