"""benchmarks/laws_studies.py: scores and counts by hand, the truths asked for, a small run of everything."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from benchmarks import laws_studies
from benchmarks.laws_studies import ALL, Answers, share
from benchmarks.simulated import FAMILIES, Ladder
from benchmarks.study_answers import KINDS, NEW_RUN, QUANTITIES, Answer, answers, asked, simulate
from scaleprior.laws import Estimate, fit_law


def answer(
    truth: float = 0.0,
    low: float = -1.0,
    high: float = 1.0,
    *,
    probability: float = math.nan,
    kind: str = "power",
    study: int = 0,
    quantity: str = "per decade",
    same: bool = False,
    seeds: int = 2,
) -> Answer:
    estimate = Estimate((low + high) / 2, low, high, probability)
    return Answer(kind, study, seeds, same, True, quantity, truth, estimate)


@pytest.mark.parametrize(
    ("truth", "score"),
    # width 2, and 2 / (1 - 0.9) = 20 times what the truth is outside by
    [(0.0, 2.0), (1.0, 2.0), (-1.0, 2.0), (1.5, 12.0), (-1.25, 7.0)],
)
def test_the_interval_score_is_the_width_and_a_fine(truth: float, score: float) -> None:
    one = answer(truth)
    assert one.score == pytest.approx(score)
    assert one.covered == (abs(truth) <= 1.0)


def test_the_interval_score_rewards_the_true_quantiles() -> None:
    # A proper score: of intervals around a standard normal truth the central 90 % one has the least mean score.
    truths = np.random.default_rng(0).normal(size=4000)
    means = [np.mean([answer(t, -half, half).score for t in truths]) for half in (1.2, 1.645, 2.2)]
    assert means[1] == min(means)


def test_coverage_is_counted_by_family_and_over_all() -> None:
    covered = [answer(), answer(study=1), answer(2.0, study=2), answer(kind="broken"), answer(5.0, kind="flat")]
    found = Answers(covered)
    assert found.mean("power", "per decade", lambda a: a.covered) == pytest.approx(2 / 3)
    assert found.mean(ALL, "per decade", lambda a: a.covered) == pytest.approx(3 / 4)  # a flat truth is of no family
    assert math.isnan(found.mean("sigmoid", "per decade", lambda a: a.covered))
    assert found.rms("per decade") == pytest.approx(1.0)  # centres at 0, truths 0, 0, 2, 0


def test_both_laws_of_a_study_count_as_one_case() -> None:
    two = share([answer(), answer(2.0), answer(study=1), answer(study=1)], lambda a: a.covered)
    assert (two.share, two.studies, two.of) == (0.75, 2, 4)
    assert two.error == pytest.approx(math.sqrt(0.75 * 0.25 / 2))
    assert share([], lambda a: a.covered).to_dict() == {"share": None, "error": None, "of": 0, "studies": 0}


def test_words_are_counted_where_they_are_false_and_where_they_are_true() -> None:
    said = [
        answer(kind="flat", probability=0.96),
        answer(kind="flat", probability=0.94, study=1, seeds=3),
        answer(kind="flat", probability=0.04, study=2, seeds=3),
        answer(-1.0, kind="-1 AP", probability=0.01),
        answer(3.0, probability=0.97),
        answer(3.0, probability=0.02, study=1),
        answer(quantity="difference", same=True, probability=0.99),
        answer(quantity="difference", same=True, probability=0.5, study=1),
        answer(-2.0, quantity="difference", probability=0.01, study=2),
        answer(2.0, quantity="difference", probability=0.01, study=3),
        answer(kind="quickstart", quantity="difference", same=True, probability=0.03),
    ]
    shares = {what: one.share for what, one in laws_studies.words(Answers(said)).items()}
    assert shares["false 'helps', flat"] == pytest.approx(1 / 3)
    assert shares["false 'helps', flat, 2 seeds"] == 1.0
    assert shares["false 'hurts', flat, 3 seeds"] == 0.5
    assert shares["true 'hurts', -1 AP per decade"] == 1.0
    assert shares["true 'helps', per decade"] == 0.5
    assert shares["wrong sign, per decade"] == pytest.approx(1 / 3)  # the falling one was told rightly
    assert shares["false 'first gains more', all six"] == 0.5
    assert shares["false 'second gains more', all six"] == 0.0
    assert shares["false 'second gains more', quickstart"] == 1.0
    assert shares["wrong sign, difference"] == 0.5
    assert shares["true word, difference of 1 AP or more"] == 0.5


@pytest.mark.parametrize(("miss", "met"), [(0, False), (1, True), (2, False)])
def test_a_target_is_judged_over_all_and_in_the_worst_family(miss: int, met: bool) -> None:
    """Ten studies a family, of which ``miss`` are not covered: 0.9 alone is within 0.86 to 0.94."""
    said = [answer(2.0 * (i < miss), kind=kind, study=i) for kind in FAMILIES for i in range(10)]
    rows = laws_studies.judge(Answers(said), 0.1)
    assert rows["coverage, per decade"]["met"] is met
    assert rows["coverage, per decade, worst family"]["met"] is True
    worse = [answer(2.0 * (i < 3), kind="broken", study=i) for i in range(10)]
    worst = laws_studies.judge(Answers([*(a for a in said if a.kind != "broken"), *worse]), 0.1)
    assert worst["coverage, per decade, worst family"] == {
        "target": ">= 0.80", "value": 0.7, "error": pytest.approx(0.1449, abs=1e-4), "met": False,
    }  # fmt: skip


def test_what_is_asked_of_a_law_has_the_truth_that_it_says() -> None:
    # 10 + 3 x + x^2 at 1e3, 1e4, 1e5, 1e6: x = 0 ... 3
    n = np.geomspace(1e3, 1e6, 4)
    ladder = Ladder(n, 10.0 + 3.0 * np.arange(4) + np.arange(4) ** 2, [0] * 4, lambda x: 10.0 + 3.0 * x + x * x)
    law = fit_law(ladder.n, ladder.metric, unit="percent")
    truths = {quantity: truth for quantity, truth, _ in asked(law, ladder, np.array([0.5, -0.5]))}
    three = 3.0 + math.log10(3.0)
    assert truths == pytest.approx(
        {
            "between": 16.75,  # x = 1.5
            "per decade": 8.0,  # 28 at x = 3, 20 at x = 2
            "next decade": 10.0,  # 38 at x = 4
            "3x": 10.0 + 3.0 * three + three**2,
            "10x": 38.0,
            "new run 3x": 10.5 + 3.0 * three + three**2,
            "new run 10x": 37.5,
        }
    )


def test_a_study_is_a_function_of_seed_kind_and_index() -> None:
    (first, noise), (again, same_noise) = simulate("broken", 3, 0), simulate("broken", 3, 0)
    assert (first.first.metric == again.first.metric).all()
    assert (noise == same_noise).all()
    others = [simulate(*other)[0] for other in (("broken", 4, 0), ("power", 3, 0), ("broken", 3, 1))]
    assert all(other.first.metric[0] != first.first.metric[0] for other in others)


def test_every_study_is_asked_everything_twice() -> None:
    found, seconds = answers("quickstart", 0, 0)
    assert len(seconds) == 2
    for together in (True, False):
        asked_of = [a.quantity for a in found if a.together == together]
        assert {q: asked_of.count(q) for q in QUANTITIES} == {
            q: 1 if q in ("difference", "at the top") else 2 for q in QUANTITIES
        }
    assert all(a.estimate.low <= a.estimate.value <= a.estimate.high for a in found)
    assert all(math.isnan(a.estimate.probability) == (a.quantity in ("between", "3x", "10x", *NEW_RUN)) for a in found)


def test_a_quick_run_prints_tables_targets_and_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    laws_studies.main(["--quick"])
    *people, last = capsys.readouterr().out.splitlines()
    line = json.loads(last)
    assert list(line) == ["bench", "figures", "targets", "met", "commit"]
    figures = line["figures"]
    for mode in ("together", "alone"):
        for table in ("coverage", "width", "score"):
            rows = figures[mode][table]
            assert list(rows) == [*FAMILIES, ALL, *(kind for kind in KINDS if kind not in FAMILIES)]
            assert all(row[q] is not None for row in rows.values() for q in QUANTITIES)
        assert all(figures[mode]["centre"][q] > 0 for q in QUANTITIES)
        assert len(figures[mode]["words"]) == 21
    assert all(0 < v < 3 for row in figures["together_over_alone"].values() for v in row.values())
    assert figures["seconds_a_fit"] > 0
    assert figures["studies"] == laws_studies.counts(1)
    assert {what for what, row in line["targets"].items() if row["value"] is None} <= {"wrong sign, difference"}
    assert line["met"] == all(row["met"] for row in line["targets"].values())
    assert sum(text.startswith(("coverage, fitted", "width, fitted", "score, fitted")) for text in people) == 6
    assert sum(text.endswith((" met", "NOT met")) for text in people) == len(line["targets"])


def test_a_run_of_default_size_has_a_thousand_studies_of_six_families() -> None:
    of_kinds = laws_studies.counts(1020)
    assert {of_kinds[kind] for kind in FAMILIES} == {170}
    assert min(of_kinds.values()) >= 150
    assert of_kinds["quickstart"] >= 300
