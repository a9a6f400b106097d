"""A fitted law: what it predicts, how sure it is, and why it has the form it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from scaleprior.laws.answers import Answers
from scaleprior.laws.candidates import Candidate
from scaleprior.laws.combination import Combination
from scaleprior.laws.forms.form import Array
from scaleprior.laws.observations import Observations, Unit
from scaleprior.laws.posterior import Curves
from scaleprior.laws.process import Process
from scaleprior.laws.select import Selection
from scaleprior.laws.straightness import Straightness, straightness

__all__ = ["Law"]


@dataclass(frozen=True)
class Law(Answers):
    """What a metric does with more images: joint draws of the curves that it may follow. Made by ``fit_law``.

    Every interval is the central one of the draws, and every probability their share, of the number that is asked for:
    a forecast, a gain, the images for a target.

    Attributes:
        forms: the fitted forms (one, where only one was asked for) and what they say together.
        curves: the draws.
        sigma: noise of ln e of one measurement of weight 1.
        raw_sigma: noise of a new, raw measurement (larger than sigma where the points were smoothed).
        level_variance: variance of ln e common to all measurements of the same groups (few seeds).
        process: what laws that were fitted together have in common; their draws are joint.
        level: the nominal coverage of intervals.
        seed: of the draws.
        why: the selection in words.
        notes: what to beware of, each a sentence or two; ``words.shared_notes`` says those of several laws once.
    """

    forms: Combination
    curves: Curves = field(repr=False)
    sigma: float
    raw_sigma: float
    level_variance: float
    process: Process = field(repr=False, compare=False)
    level: float = 0.9
    seed: int = 0
    why: str = ""
    notes: tuple[str, ...] = ()

    @property
    def data(self) -> Observations:
        """The measurements."""
        return self.forms.data

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The fitted forms, each under each weighting of the points."""
        return self.forms.candidates

    @property
    def selection(self) -> Selection:
        """The forms' weights."""
        return self.forms.selection

    @property
    def unit(self) -> Unit:
        """What the metric is."""
        return self.data.unit

    @property
    def first(self) -> float:
        """The smallest fraction."""
        return float(self.data.n.min())

    @property
    def last(self) -> float:
        """The largest fraction."""
        return float(self.data.n.max())

    @property
    def n_ref(self) -> float:
        """Geometric mean of the measured numbers of images."""
        return self.forms.n_ref

    @property
    def form(self) -> str:
        """The name of the form, or "combination of A, B, ..."."""
        used = self.selection.used
        return used[0] if len(used) == 1 else f"combination of {', '.join(used)}"

    def form_curves(self, n: Array) -> Array:
        """ln e of each candidate at n [K]: [C, K]."""
        return self.forms.curves(n)

    @cached_property
    def straightness(self) -> Straightness:
        """Whether the data contradict the log-linear law, and how often such data would find out a bent one."""
        return straightness(self.data)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description: data, forms with parameters and weights, noise, gain per decade, the reasons."""
        forms = [
            {
                "form": candidate.form.name,
                "formula": candidate.form.formula,
                "weighting": f"n^{candidate.power:g}" if candidate.power else "equal",
                "weight": float(weight),
                "parameters": candidate.form.describe(candidate.theta, self.n_ref),
                "held_back_error": [float(v) for v in candidate.held_back],
                "misfit": candidate.misfit,
            }
            for candidate, weight in zip(self.candidates, self.selection.weights)
        ]
        return {
            "schema": 1,
            "kind": self.kind,
            "scale": self.data.scale,
            "form": self.form,
            "why": self.why,
            "notes": list(self.notes),
            "level": self.level,
            "noise": self.sigma,
            "noise_of_a_new_measurement": self.raw_sigma,
            "per_decade": self.per_decade.to_dict(),
            "straightness": self.straightness.to_dict(),
            "images": self.data.n.tolist(),
            "metric": self.data.metric.tolist(),
            "weights": self.data.w.tolist(),
            "forms": forms,
        }
