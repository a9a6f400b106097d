"""The study's picture: AP against pretraining images with a law per architecture, and what each gains per decade."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scaleprior.study.report.summary import ArchSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_study"]

_COLOURS = ("#1f5fa8", "#c4561b", "#2e7d4f", "#7a3e9d", "#8a6d00")


def draw_study(summaries: Sequence[ArchSummary], *, title: str) -> Figure:
    """The figure: laws on the left, gains per decade (the capacity plot) on the right.

    AP is in [0, 100]. From scratch has no place on a logarithmic axis, so it is a horizontal line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    curves, gains = figure.subplots(1, 2, width_ratios=[2.6, 1])
    for summary, colour in zip(summaries, itertools.cycle(_COLOURS)):
        _draw_arch(curves, summary, colour)
    curves.set_title(title, loc="left", fontsize="medium")
    curves.set_ylabel("COCO AP")
    handles, labels = curves.get_legend_handles_labels()
    named = {label: handle for handle, label in zip(handles, labels) if "interval" not in label and label != "forecast"}
    curves.legend(named.values(), named.keys(), frameon=False, fontsize="small", loc="upper left")
    _draw_gains(gains, summaries)
    return figure


def _draw_arch(ax: Axes, summary: ArchSummary, colour: str) -> None:
    from scaleprior.laws import draw_law

    if summary.law is not None:
        until = 10.0 * summary.points[-1].images
        draw_law(ax, summary.law, label=summary.arch, color=colour, until=until, forms=False, ylabel="COCO AP")
    elif summary.points:
        images = [p.images for p in summary.points for _ in p.aps]
        ax.plot(images, [ap for p in summary.points for ap in p.aps], "o", color=colour, label=summary.arch)
        ax.set_xscale("log")
        ax.set_xlabel("pretraining images")
    if summary.scratch is not None:
        label = f"{summary.arch} from scratch"
        ax.axhline(summary.scratch.mean, color=colour, linewidth=1.2, linestyle=":", label=label)


def _draw_gains(ax: Axes, summaries: Sequence[ArchSummary]) -> None:
    """Gain per tenfold images with its 90 % interval, one bar an architecture: does a deeper trunk gain more?"""
    laws = [(s.arch, s.law) for s in summaries if s.law is not None]
    if not laws:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "too few fractions\nfor a law", ha="center", va="center", transform=ax.transAxes)
        return
    for place, ((_, law), colour) in enumerate(zip(laws, itertools.cycle(_COLOURS))):
        gain = law.per_decade
        ax.bar(place, gain.value, width=0.55, color=colour, alpha=0.25)
        ax.errorbar(
            place, gain.value, [[gain.value - gain.low], [gain.high - gain.value]], fmt="o", color=colour, capsize=4
        )
    ax.axhline(0, color="#5b6b7c", linewidth=0.8)
    ax.set_xticks(range(len(laws)), [arch for arch, _ in laws])
    ax.set_xlim(-0.6, len(laws) - 0.4)
    ax.set_title("AP per tenfold images", loc="left", fontsize="medium")
    ax.grid(True, axis="y", color="#d0d0d0", linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
