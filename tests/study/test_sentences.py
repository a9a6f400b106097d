"""What a report says of its numbers: changes over from scratch, verdicts that follow probabilities, notes said once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from scaleprior.laws import Law, fit_law
from scaleprior.laws.words import chance, judged, thresholds
from scaleprior.study.report.page import build_report
from scaleprior.study.report.picture import draw_study
from scaleprior.study.report.sentences import study_notes, study_sentences
from scaleprior.study.report.summary import ArchSummary, Point
from scaleprior.study.report.terminal import print_summary
from scaleprior.study.status import study_status

RUNGS = (100, 1000, 10000)


def summary(
    scratch: tuple[float, ...], *rungs: tuple[float, ...], arch: str = "R-50", arm: str = "", level: float = 0.9
) -> ArchSummary:
    """As a study of three rungs gives it; its law is log-linear, whose slope is known."""
    points = tuple(Point(n, tuple(range(len(aps))), aps) for n, aps in zip(RUNGS, rungs))
    law = None
    if points:
        law = fit_law(
            [p.images for p in points for _ in p.aps],
            [ap for p in points for ap in p.aps],
            unit="percent",
            groups=[seed for p in points for seed in p.seeds],
            forms="log-linear",
            level=level,
        )
    zero = Point(0, tuple(range(len(scratch))), scratch) if scratch else None
    return ArchSummary(arch, zero, points, law, "", arm)


def change_sentence(one: ArchSummary) -> str:
    (said,) = [sentence for sentence in study_sentences([one]) if "over from scratch" in sentence]
    return said


def test_the_change_over_from_scratch_by_hand() -> None:
    """Spread sqrt((0.5 + 0.125 + 0.5 + 2) / 4) = 0.884 of 4 degrees of freedom; 2.132 of Student's t leave 90 %."""
    assert change_sentence(summary((4.0, 5.0), (6.0, 5.5), (7.0, 8.0), (8.0, 10.0))) == (
        "R-50: pretraining on 10,000 images changes AP by +4.50 over from scratch (2 against 2 seeds, standard error "
        "0.88, 90 % interval +2.62 to +6.38; probability of a gain 0.99): pretraining gains."
    )
    # the same spread, one seed from scratch: sqrt((0.125 + 0.5 + 2) / 3) = 0.935, times sqrt(1/2 + 1) = 1.146;
    # t 1.309 of 3 degrees of freedom leaves 14 % above it, so this is not shown but likely
    assert change_sentence(summary((7.5,), (6.0, 5.5), (7.0, 8.0), (8.0, 10.0))) == (
        "R-50: pretraining on 10,000 images changes AP by +1.50 over from scratch (2 against 1 seed, standard error "
        "1.15, 90 % interval -1.20 to +4.20; probability of a gain 0.85): pretraining probably gains."
    )


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ((4.5, 4.9), "whether pretraining gains is open"),
        ((3.2, 4.2), "pretraining probably loses"),
        ((0.0, 2.0), "pretraining loses"),
    ],
)
def test_a_change_that_is_open_or_a_loss_is_said(top: tuple[float, float], words: str) -> None:
    assert change_sentence(summary((4.0, 5.0), (5.0, 4.0), (4.5, 5.5), top)).endswith(f"): {words}.")


def test_a_change_of_more_than_the_standard_deviation_is_no_gain() -> None:
    """A seed's spread of 0.71 and a change of 0.9: the old rule's "more" is one time in five said of no change."""
    said = change_sentence(summary((4.0, 5.0), (6.0, 5.0), (7.0, 8.0), (4.9, 5.9)))
    assert "standard error 0.71" in said
    assert said.endswith(": pretraining probably gains.")


@pytest.mark.parametrize("aps", [((4.0,), (5.0,), (6.0,), (7.0,)), ((4.0, 4.0), (5.0, 5.0), (6.0, 6.0), (7.0, 7.0))])
def test_without_a_spread_the_change_is_a_number_without_words(aps: tuple[tuple[float, ...], ...]) -> None:
    seeds = {1: "1 against 1 seed", 2: "2 against 2 seeds"}[len(aps[0])]
    assert change_sentence(summary(*aps)) == (
        f"R-50: pretraining on 10,000 images changes AP by +3.00 over from scratch ({seeds}: how far seeds scatter is "
        "not known)."
    )


def test_from_scratch_in_another_arm_has_its_interval_and_no_verdict() -> None:
    ladder = summary((), (6.0, 5.5), (7.0, 8.0), (8.0, 10.0), arm="plain")
    alone = summary((4.0, 5.0), arm="long")
    (said,) = [sentence for sentence in study_sentences([ladder, alone]) if "recipes differ" in sentence]
    assert said == (
        "R-50: pretraining on 10,000 images in arm plain gives AP 9.00, from scratch in arm long AP 4.50: +4.50 (2 "
        "against 2 seeds, standard error 0.88, 90 % interval +2.62 to +6.38; probability of a gain 0.99); their "
        "recipes differ, too."
    )


def law_of(one: ArchSummary) -> Law:
    assert one.law is not None
    return one.law


@pytest.mark.parametrize(
    ("slope", "words"),
    [(4.0, "more data helps"), (0.25, ""), (0.0, "whether more data helps is open"), (-0.25, ""),
     (-4.0, "more data hurts")],
)  # fmt: skip
def test_the_law_s_words_follow_its_probability_and_a_fall_is_said(slope: float, words: str) -> None:
    """Noise that is orthogonal to the slope: what the law finds is the slope that was put in."""
    noise = 0.3 * np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]])
    rungs = [tuple(20.0 + slope * k + noise[k]) for k in range(3)]
    one = summary((), *rungs, level=0.8)
    gain = law_of(one).per_decade
    sentence, forecast = study_sentences([one])
    assert gain.value == pytest.approx(slope, abs=0.15)
    assert sentence == (
        f"R-50: {gain.value:+.2f} AP per tenfold pretraining images at the top of the ladder (80 % interval "
        f"{gain.low:+.2f} to {gain.high:+.2f}; probability of a gain {chance(gain.probability)}): "
        f"{words or 'more data ' + judged(gain.probability, 'helps', 'hurts')}."
    )
    assert re.search(r" \(80 % interval of a new run \d+\.\d\d to \d+\.\d\d\)\.$", forecast)
    worse = [note for note in study_notes([one]) if "worse at the largest fraction" in note]
    assert len(worse) == (slope < 0)
    assert "no gain" not in " ".join(study_notes([one]))


def test_the_picture_names_the_level_and_what_an_interval_is_of() -> None:
    laws = [summary((1.0,), (10.0,), (12.0,), (14.0,), arch=arch, level=0.8) for arch in ("R-50", "R-152")]
    panel, gains = draw_study(laws, title="t").axes
    legend = panel.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()][-2:] == ["forecast", "80 % interval of a new run"]
    assert gains.get_xlabel() == "lines: 80 % interval of the law"


def test_the_report_says_each_note_once(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = build_report(study_status(finished))
    law = report.summaries[0].law
    assert law is not None
    assert report.notes == (law.why, *law.notes, thresholds())
    print_summary(report, tmp_path / "report.html")
    shown = capsys.readouterr().out
    for text in (shown, report.markdown(), report.html(), report._repr_html_()):
        assert [text.count(note.replace(">", "&gt;")) for note in report.notes] == [1] * len(report.notes)
    said = report.to_dict()
    assert said["notes"] == list(report.notes)
    assert said["over_scratch"]["R-50"]["runs"] == (1, 1)
    for text in (report.markdown(), report.html()):
        assert "90 % interval of the law" in text
        assert "90 % interval of a new run" in text
        assert "probability of a gain" in text
