"""What laws say in words: verdicts by probability, images that a target needs, notes that are said once."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from scaleprior.laws import Estimate, Law, fit_law
from scaleprior.laws.words import chance, judged, needs, percent, shared_notes, shared_reasons, thresholds

LADDER = [100, 1000, 10000]
RISING = [10.0, 20.0, 30.0]


@pytest.fixture(scope="module")
def rising() -> Law:
    return fit_law(LADDER, RISING, forms="log-linear")


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (1.0, "helps"), (0.95, "helps"), (0.9499, "probably helps"), (0.8, "probably helps"), (0.7999, "open"),
        (0.5, "open"), (0.2001, "open"), (0.2, "probably hurts"), (0.0501, "probably hurts"), (0.05, "hurts"),
        (0.0, "hurts"), (math.nan, "open"),
    ],
)  # fmt: skip
def test_a_probability_in_words(probability: float, words: str) -> None:
    assert judged(probability, "helps", "hurts") == words


@pytest.mark.parametrize(
    ("probability", "figure"),
    [(0.9499, "0.94"), (0.95, "0.95"), (0.9999, "0.99"), (1.0, "0.99"), (0.0, "0.01"),
     (1 - 1e-15, "0.99"), (0.0501, "0.06"), (0.05, "0.05"),
     (0.0001, "0.01"), (0.29, "0.29"), (0.57, "0.57"), (0.5, "0.50")],
)  # fmt: skip
def test_a_figure_never_says_more_than_the_words(probability: float, figure: str) -> None:
    assert chance(probability) == figure


def test_the_figure_and_the_words_of_any_probability_agree() -> None:
    for probability in np.linspace(0.0, 1.0, 100_001):
        assert judged(float(chance(probability))) == judged(probability), probability


def test_the_scale_of_the_words_is_that_of_the_judgement() -> None:
    figures = [float(figure) for figure in re.findall(r"0\.\d\d", thresholds())]
    assert [judged(p) for p in figures] == ["gains", "probably gains", "probably loses", "loses"]
    inside = (figures[0] - 1e-6, figures[1] - 1e-6, figures[2] + 1e-6, figures[3] + 1e-6)
    assert [judged(p) for p in inside] == ["probably gains", "open", "open", "probably loses"]


def test_the_level_of_an_interval_in_words() -> None:
    assert [percent(level) for level in (0.9, 0.95, 0.995)] == ["90 %", "95 %", "99.5 %"]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (Estimate(100, 100, 100, 1.0), "is reached already at the smallest fraction measured (100 images)"),
        (
            Estimate(100, 100, 640, 0.99),
            "is reached already at the smallest fraction measured (100 images; 90 % interval up to 640)",
        ),
        (
            Estimate(100, 100, math.inf, 0.9),
            "is reached already at the smallest fraction measured (100 images; the 90 % interval's worst end does not "
            "get there); probability that it is reached at all 0.90",
        ),
        (
            Estimate(1000, 640, 2500, 0.99),
            "is reached within the ladder, at 1,000 images (90 % interval 640 to 2,500)",
        ),
        (
            Estimate(1000, 100, 2500, 0.99),
            "is reached within the ladder, at 1,000 images (90 % interval 100 or fewer to 2,500)",
        ),
        (Estimate(2e6, 64e3, 3e9, 0.96), "needs 2M images (90 % interval 64,000 to 3B)"),
        (
            Estimate(2e6, 64e3, math.inf, 0.7777),
            "needs 2M images (90 % interval 64,000 to out of reach); probability that it is reached at all 0.77",
        ),
        (
            Estimate(math.inf, 64e3, math.inf, 0.3),
            "is out of reach; the 90 % interval's best end needs 64,000 images; "
            "probability that it is reached at all 0.30",
        ),
        (Estimate(math.inf, math.inf, math.inf, 0.0), "is out of reach; probability that it is reached at all 0.01"),
        (Estimate(math.inf, math.inf, math.inf), "is out of reach"),
        (
            Estimate(math.inf, 64000.0, math.inf, 0.69),
            "is not reached by the law itself; the 90 % interval's best end needs 64,000 images; "
            "probability that it is reached at all 0.69",
        ),
    ],
)
def test_what_a_target_needs(rising: Law, images: Estimate, words: str) -> None:
    target = float(rising.predict(min(images.value, 1e4))[0])  # where the law is then; beyond the top it asks nothing
    assert needs(images, rising, target) == words


def test_a_law_is_asked_for_what_it_passed_before_its_first_rung_and_within_the_ladder(rising: Law) -> None:
    below, inside = (needs(rising.images_for(t), rising, t) for t in (5.0, 20.0))
    assert below.startswith("is reached already at the smallest fraction measured (100 images")
    assert inside.startswith("is reached within the ladder, at 1,0")  # errors are logarithms: not 1,000 to the image
    # e = 1 - AP falls by 0.1 a decade at its start, so 40 lies near 100,000
    beyond = needs(rising.images_for(40.0), rising, 40.0)
    assert beyond.startswith("needs ")
    assert 5e4 < rising.images_for(40.0).value < 2e5


def test_a_target_that_a_falling_law_passes_again_is_not_simply_reached() -> None:
    law = fit_law(LADDER, RISING[::-1], forms="log-linear")
    said = needs(law.images_for(25.0), law, 25.0)
    assert said.startswith("is reached already at the smallest fraction measured (100 images")
    assert ", and lost again by 10,000" in said
    error = fit_law(LADDER, [0.7, 0.8, 0.9], kind="error", forms="log-linear")
    assert ", and lost again by 10,000" in needs(error.images_for(0.75), error, 0.75)


def test_notes_are_said_once_and_name_laws_only_where_they_do_not_hold_for_all(rising: Law) -> None:
    four = fit_law([*LADDER, 100_000], [*RISING, 40.0], forms="log-linear")
    alike = {"R-50": rising, "R-101": rising}
    assert shared_notes(alike) == list(rising.notes)
    assert shared_reasons(alike) == [rising.why] == ["The form log-linear was asked for."]
    mixed = shared_notes({**alike, "R-152": four})
    (three,) = [note for note in mixed if "3 fractions prove little" in note]
    assert three.startswith("R-50, R-101: 3 fractions")
    assert [note for note in mixed if note.startswith("R-152: ")] == [
        f"R-152: {note}" for note in four.notes if "4 fractions" in note or "log-linear law" in note
    ]
    assert sum("log-linear law" in note for note in mixed) == 2  # 3 fractions of one run test nothing
    assert shared_notes({}) == shared_reasons({}) == []


def test_one_run_a_fraction_is_said(rising: Law) -> None:
    said = "One run a fraction: how far runs scatter is known from their distance to the law only."
    assert said in rising.notes
    twice = fit_law(np.repeat(LADDER, 2), [10.0, 10.4, 20.1, 19.8, 30.0, 30.3], groups=[0, 1] * 3, forms="log-linear")
    assert said not in twice.notes
