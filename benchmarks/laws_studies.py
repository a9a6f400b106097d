"""How often laws are right, in simulated studies whose truth is known: their intervals, and their words.

    python benchmarks/laws_studies.py             # 1,020 studies of six families and 1,071 others
    python benchmarks/laws_studies.py --quick     # a few of each kind: does it run?
    python benchmarks/laws_studies.py --studies 300 --jobs 1

Families, designs and noise are those of ``benchmarks/simulated.py``: studies of six families of rising truths, of flat
and falling ones, and of the quickstart's design. Each study's two architectures are fitted together, as reports do, and
each alone (differences are then those of independent draws), and asked what ``benchmarks/study_answers.py`` lists.

Printed are, per kind of study, coverage of the nominal 90 % intervals, their mean width and interval score (Gneiting &
Raftery 2007), the error of the centre, how often a word is said that is false and one that is true, the targets, and
one line of JSON. "+-" is the binomial standard error; both laws of a study count as one case. Deterministic in --seed.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.commit import commit
from benchmarks.simulated import FAMILIES, families_in_words
from benchmarks.study_answers import FLAT, KINDS, LEVEL, OF_ONE, OF_TWO, QUANTITIES, QUICKSTART, SLOPES, Answer, answers
from scaleprior.laws.words import judged

ALL = "all six"
ROWS = (*FAMILIES, ALL, *SLOPES, QUICKSTART)
JUDGED = (*OF_ONE, *OF_TWO)
MODES = ("together", "alone")
OVERALL, EVERY = (0.86, 0.94), 0.80
FALSE, WRONG, SECONDS = 0.05, 0.01, 0.2
CLEAR = 1.0  # AP, or AP per decade: a difference that is worth finding


@dataclass(frozen=True)
class Share:
    """How many of some answers are of a sort.

    Attributes:
        count: of that sort.
        of: all.
        studies: that they are of.
    """

    count: int
    of: int
    studies: int

    @property
    def share(self) -> float:
        """In [0, 1]; nan of none."""
        return self.count / self.of if self.of else math.nan

    @property
    def error(self) -> float:
        """Binomial standard error, as if all answers of a study were one."""
        return math.sqrt(self.share * (1.0 - self.share) / self.studies) if self.of else math.nan

    def __str__(self) -> str:
        return f"{self.share:.3f} +- {self.error:.3f}" if self.of else "-"

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON-ready."""
        return {"share": known(self.share), "error": known(self.error), "of": self.of, "studies": self.studies}


def share(said: Iterable[Answer], sort: Callable[[Answer], bool]) -> Share:
    """How many of the answers are of a sort."""
    said = list(said)
    return Share(sum(map(sort, said)), len(said), len({(a.kind, a.study) for a in said}))


def known(value: float, digits: int = 4) -> float | None:
    """Rounded for JSON; None for nan."""
    return None if math.isnan(value) else round(value, digits)


class Answers:
    """All answers of one way to fit, by kind of study and quantity."""

    def __init__(self, said: Iterable[Answer]) -> None:
        self._cells: dict[tuple[str, str], list[Answer]] = {}
        for answer in said:
            self._cells.setdefault((answer.kind, answer.quantity), []).append(answer)

    def of(self, kinds: str | Iterable[str], quantity: str) -> list[Answer]:
        """Those of some kinds, or of one, or of all families."""
        names = FAMILIES if kinds == ALL else (kinds,) if isinstance(kinds, str) else kinds
        return [answer for kind in names for answer in self._cells.get((kind, quantity), [])]

    def mean(self, kinds: str, quantity: str, number: Callable[[Answer], float]) -> float:
        """Of a number of each answer; nan of none."""
        said = self.of(kinds, quantity)
        return float(np.mean([number(answer) for answer in said])) if said else math.nan

    def rms(self, quantity: str) -> float:
        """Root mean square error of the centre, over all families."""
        return math.sqrt(self.mean(ALL, quantity, lambda a: (a.estimate.value - a.truth) ** 2))


def said(word: str) -> Callable[[Answer], bool]:
    """Whether an answer is told as ``word``, "gains" or "loses"."""
    return lambda answer: judged(answer.estimate.probability) == word


def wrong(answer: Answer) -> bool:
    """Whether it is told with certainty, and with the wrong sign."""
    return judged(answer.estimate.probability) == ("loses" if answer.truth > 0 else "gains")


def words(found: Answers) -> dict[str, Share]:
    """How often something is said, by what is said of what."""
    flat, shares = found.of(FLAT, "per decade"), {}
    for name, word in (("helps", "gains"), ("hurts", "loses")):
        shares[f"false '{name}', flat"] = share(flat, said(word))
        for seeds in (2, 3):
            shares[f"false '{name}', flat, {seeds} seeds"] = share([a for a in flat if a.seeds == seeds], said(word))
    same = [a for a in found.of(ALL, "difference") if a.same]
    for what, pairs in ((ALL, same), (QUICKSTART, found.of(QUICKSTART, "difference"))):
        for name, word in (("first", "gains"), ("second", "loses")):
            shares[f"false '{name} gains more', {what}"] = share(pairs, said(word))
    rising_or_falling = (*FAMILIES, *(kind for kind in SLOPES if kind != FLAT))
    for quantity in ("per decade", "next decade"):
        moved = [a for a in found.of(rising_or_falling, quantity) if abs(a.truth) > 1e-9]
        shares[f"wrong sign, {quantity}"] = share(moved, wrong)
    differ = {quantity: [a for a in found.of(ALL, quantity) if abs(a.truth) > 1e-9] for quantity in OF_TWO}
    for quantity, pairs in differ.items():
        shares[f"wrong sign, {quantity}"] = share(pairs, wrong)
    for kind in SLOPES:
        if kind != FLAT:
            shares[f"true 'hurts', {kind} per decade"] = share(found.of(kind, "per decade"), said("loses"))
    for quantity in ("per decade", "next decade"):
        rising = [a for a in found.of(ALL, quantity) if a.truth > 0.05]
        shares[f"true 'helps', {quantity}"] = share(rising, said("gains"))
    for quantity, pairs in differ.items():
        clear = [a for a in pairs if abs(a.truth) >= CLEAR]
        shares[f"true word, {quantity} of 1 AP or more"] = share(
            clear, lambda a: judged(a.estimate.probability) == ("gains" if a.truth > 0 else "loses")
        )
    return shares


def figures(found: Answers) -> dict[str, dict]:
    """All that is measured of one way to fit: tables by kind and quantity, errors of the centre, words."""
    numbers: dict[str, Callable[[Answer], float]] = {
        "coverage": lambda a: a.covered, "width": lambda a: a.width, "score": lambda a: a.score,
    }  # fmt: skip
    tables: dict[str, dict] = {
        name: {kind: {q: known(found.mean(kind, q, number)) for q in QUANTITIES} for kind in ROWS}
        for name, number in numbers.items()
    }
    tables["centre"] = {q: known(found.rms(q)) for q in QUANTITIES}
    tables["words"] = {what: one.to_dict() for what, one in words(found).items()}
    return tables


def ratios(of: dict[str, dict]) -> dict[str, dict[str, float | None]]:
    """Together over alone, of all families: interval score, width, and error of the centre."""

    def ratio(first: float | None, second: float | None) -> float | None:
        return round(first / second, 3) if first is not None and second else None

    both = {name: [of[mode][name][ALL] for mode in MODES] for name in ("score", "width")}
    both["centre"] = [of[mode]["centre"] for mode in MODES]
    return {name: {q: ratio(first[q], second[q]) for q in QUANTITIES} for name, (first, second) in both.items()}


def judge(found: Answers, seconds: float) -> dict[str, dict[str, object]]:
    """The targets, of architectures fitted together: name -> {target, value, error, met}."""
    rows: list[tuple[str, str, float, float, bool]] = []
    for quantity in JUDGED:
        one = share(found.of(ALL, quantity), lambda a: a.covered)
        met = OVERALL[0] <= one.share <= OVERALL[1]
        rows.append((f"coverage, {quantity}", f"{OVERALL[0]} to {OVERALL[1]}", one.share, one.error, met))
    for quantity in JUDGED:
        each = [share(found.of(kind, quantity), lambda a: a.covered) for kind in FAMILIES]
        one = min(each, key=lambda one: one.share)
        rows.append(
            (f"coverage, {quantity}, worst family", f">= {EVERY:.2f}", one.share, one.error, one.share >= EVERY)
        )
    of_words = words(found)
    for prefix, limit in (("false ", FALSE), ("wrong sign", WRONG)):
        for what, one in of_words.items():
            if what.startswith(prefix) and not what.endswith("seeds"):
                rows.append((what, f"<= {limit}", one.share, one.error, one.share <= limit))
    rows.append(("seconds a fit", f"<= {SECONDS}", seconds, math.nan, seconds <= SECONDS))
    return {
        name: {"target": target, "value": known(value), "error": known(error), "met": bool(met)}
        for name, target, value, error, met in rows
    }


def counts(studies: int) -> dict[str, int]:
    """Studies of each kind, for so many of the six families together."""
    family, other = math.ceil(studies / len(FAMILIES)), math.ceil(0.15 * studies)
    return {kind: family if kind in FAMILIES else 2 * other if kind in (FLAT, QUICKSTART) else other for kind in KINDS}


def _work(job: tuple[str, int, int]) -> tuple[list[Answer], list[float], float]:
    started = time.process_time()
    return *answers(*job), time.process_time() - started


def run(of_kinds: dict[str, int], seed: int, jobs: int) -> tuple[list[Answer], list[float], float]:
    """All answers, the seconds of each fit, and of all work, of so many studies of each kind.

    Args:
        of_kinds: kind -> studies.
        seed: of the benchmark.
        jobs: processes, of one thread each; 1 works in this one.
    """
    todo = [(kind, i, seed) for kind, count in of_kinds.items() for i in range(count)]
    if jobs == 1:
        done = [_work(job) for job in todo]
    else:
        # Each library of linear algebra would otherwise start a thread per core in every process
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            done = pool.map(_work, todo, chunksize=8)
    said_of_all, fits, spent = zip(*done)
    return [a for found in said_of_all for a in found], [s for seconds in fits for s in seconds], sum(spent)


def print_table(title: str, rows: dict[str, dict[str, float | None]], places: int) -> None:
    print(f"\n{title}\n{'':<12}" + "".join(f"{q.replace('new run', 'run'):>12}" for q in QUANTITIES))
    for kind, row in rows.items():
        cells = ("-" if row[q] is None else f"{row[q]:.{places}f}" for q in QUANTITIES)
        print(f"{kind:<12}" + "".join(f"{cell:>12}" for cell in cells))


def show(of: dict[str, dict], shares: dict[str, dict[str, Share]], margin: dict[str, dict]) -> None:
    """The tables, for people."""
    for mode in MODES:
        for name, places in (("coverage", 2), ("width", 2), ("score", 2)):
            print_table(f"{name}, fitted {mode}", of[mode][name], places)
    rows = {mode: of[mode]["centre"] for mode in MODES}
    print_table("error of the centre (root mean square, AP), all six families", rows, 3)
    print_table("together over alone, all six families", margin, 3)
    print(f"\n{'words':<52}" + "".join(f"{'fitted ' + mode:>20}" for mode in MODES) + f"{'studies':>9}")
    for what, one in shares[MODES[0]].items():
        print(f"{what:<52}" + "".join(f"{shares[mode][what]!s:>20}" for mode in MODES) + f"{one.studies:>9}")


def show_targets(targets: dict[str, dict]) -> None:
    print("\ntargets, fitted together")
    for name, row in targets.items():
        value = "-" if row["value"] is None else f"{row['value']:.3f}"
        error = "" if row["error"] is None else f"+- {row['error']:.3f}"
        print(f"  {name:<52}{row['target']:>13}{value:>8} {error:<9}{'met' if row['met'] else 'NOT met'}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1020, help="of the six families together (default: 1020)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the studies")
    parser.add_argument("--quick", action="store_true", help="one study of each family, in this process")
    args = parser.parse_args(argv)
    if args.studies < 1 or args.jobs < 1 or args.seed < 0:
        parser.error("--studies and --jobs are at least 1, --seed is at least 0")
    started, of_commit = time.perf_counter(), commit()
    of_kinds = counts(1 if args.quick else args.studies)
    jobs = 1 if args.quick else args.jobs
    said_of_all, seconds, spent = run(of_kinds, args.seed, jobs)
    found = {mode: Answers(a for a in said_of_all if a.together == (mode == "together")) for mode in MODES}
    of = {mode: figures(one) for mode, one in found.items()}
    margin, per_fit = ratios(of), float(np.mean(seconds))
    print(f"{sum(of_kinds.values())} studies: " + ", ".join(f"{count} {kind}" for kind, count in of_kinds.items()))
    print(f"nominal coverage {LEVEL}; AP, in percent")
    show(of, {mode: words(one) for mode, one in found.items()}, margin)
    targets = judge(found["together"], per_fit)
    show_targets(targets)
    print("\nfamilies")
    for name, sentence in families_in_words().items():
        print(f"  {name:<12}{sentence}")
    print(f"{time.perf_counter() - started:.0f} s in all, {spent:.0f} s of processors, {jobs} at a time")
    measured = {**of, "together_over_alone": margin, "seconds_a_fit": known(per_fit), "studies": of_kinds}
    met = all(row["met"] for row in targets.values())
    line = {"bench": "laws_studies", "figures": measured, "targets": targets, "met": met, "commit": of_commit}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
