"""The study's picture: AP against pretraining images with a law per architecture, and what each gains per decade."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scaleprior.laws.words import number, percent
from scaleprior.pages.texts import in_picture
from scaleprior.study.report.summary import ArchSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scaleprior.laws import Law

__all__ = ["draw_study"]

_FEW = 5  # names that a legend within a panel has room for
_FROM_SCRATCH = " from scratch"
_COLOURS = ("#1f5fa8", "#c4561b", "#2e7d4f", "#7a3e9d", "#8a6d00", "#0f8a94", "#b02a5b", "#5a5a5a")


def draw_study(summaries: Sequence[ArchSummary], *, title: str) -> Figure:
    """The figure: laws, one panel an arm, and the gains per decade (the capacity plot).

    AP is in [0, 100]. From scratch has no place on a logarithmic axis, so it is a horizontal line; that of an arm which
    is for it alone is drawn into every panel. An architecture has one colour throughout.
    """
    from matplotlib.figure import Figure

    arms = list(dict.fromkeys(s.arm for s in summaries if s.points or not s.arm)) or [summaries[0].arm]
    colours = dict(zip(dict.fromkeys(s.arch for s in summaries), itertools.cycle(_COLOURS)))
    if len(arms) == 1:
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        panel, gains = figure.subplots(1, 2, width_ratios=[2.6, 1])
        panels = [panel]
    else:
        figure, panels, gains = _panels(len(arms))
    for panel, arm in zip(panels, arms):
        panel.set_title(in_picture(f"{title}: {arm}" if arm else title), loc="left", fontsize="medium")
        alone = [s for s in summaries if s.arm not in arms]  # arms for from scratch
        _draw_arm(panel, [s for s in summaries if s.arm == arm] + alone, colours)
    _legend(figure, panels, _interval(s.law for s in summaries if s.law is not None))
    _one_scale(panels, [s.scratch.mean for s in summaries if s.scratch is not None])
    _draw_gains(gains, summaries, arms, colours)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes], Axes]:
    """Rows of up to three panels, as full as they can be, and the gains below them all."""
    from matplotlib.figure import Figure

    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(5.2 * columns, 4.0 * rows + 3.2), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[4.0] * rows + [3.2])
    panels = [figure.add_subplot(grid[place // columns, place % columns]) for place in range(count)]
    return figure, panels, figure.add_subplot(grid[rows, :])


def _one_scale(panels: Sequence[Axes], lines: Sequence[float]) -> None:
    """Give all panels the limits that show all of each, and of the horizontal lines."""
    lows, highs = zip(*(panel.get_ylim() for panel in panels))
    low, high = min(lows), max(highs)
    margin = 0.03 * (high - low)
    low, high = min([low, *(line - margin for line in lines)]), max([high, *(line + margin for line in lines)])
    left, right = min(panel.get_xlim()[0] for panel in panels), max(panel.get_xlim()[1] for panel in panels)
    for panel in panels:
        panel.set_ylim(low, high)
        panel.set_xlim(left, right)


def _draw_arm(ax: Axes, summaries: Sequence[ArchSummary], colours: Mapping[str, str]) -> None:
    """One panel: points without a law first, since a law's limits hold what was drawn before, then laws, then lines."""
    from scaleprior.laws import draw_law

    for summary in summaries:
        if summary.law is None and summary.points:
            images = [p.images for p in summary.points for _ in p.aps]
            aps = [ap for p in summary.points for ap in p.aps]
            ax.plot(images, aps, "o", color=colours[summary.arch], markersize=4, label=in_picture(summary.arch))
            ax.set_xscale("log")
            ax.set_xlabel("pretraining images")
            ax.xaxis.set_major_formatter(lambda value, _: number(value))
    for summary in summaries:
        if summary.law is not None:
            until, colour = 10.0 * summary.points[-1].images, colours[summary.arch]
            draw_law(ax, summary.law, label=summary.arch, color=colour, until=until, forms=False, ylabel="COCO AP")
    for summary in summaries:
        if summary.scratch is not None:
            name = summary.arch if summary.points else summary.title  # whose recipe differs from the panel's
            style = {"color": colours[summary.arch], "linewidth": 1.2, "linestyle": ":"}
            ax.axhline(summary.scratch.mean, label=in_picture(f"{name}{_FROM_SCRATCH}"), **style)
    ax.set_ylabel("COCO AP")
    if (legend := ax.get_legend()) is not None:
        legend.remove()


def _interval(laws: Iterable[Law]) -> str:
    """``90 % interval``; of laws of several levels all of those, and "" of no law."""
    levels = sorted({law.level for law in laws})
    return f"{' and '.join(map(percent, levels))} interval" if levels else ""


def _legend(figure: Figure, panels: Sequence[Axes], interval: str) -> None:
    """Name every architecture once, and dashes and bands; in the panel where there is one and room, else below all."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    named: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels()):
            if "interval" not in label and label != "forecast":
                named.setdefault(label, handle)
    labels = sorted(named, key=lambda label: (label.endswith(_FROM_SCRATCH), not label.endswith(" law")))
    handles = [named[label] for label in labels]
    if interval:
        handles += [Line2D([], [], color="#555555", linestyle=(0, (4, 2))), Patch(color="#555555", alpha=0.18)]
        labels += ["forecast", f"{interval} of a new run"]
    if len(panels) == 1 and len(named) <= _FEW:
        panels[0].legend(handles, labels, frameon=False, fontsize="small", loc="best")  # laws rise, or fall
    else:
        figure.legend(handles, labels, frameon=False, fontsize="small", loc="outside lower center", ncols=3)


def _draw_gains(ax: Axes, summaries: Sequence[ArchSummary], arms: Sequence[str], colours: Mapping[str, str]) -> None:
    """Gain per tenfold images with the law's interval, a bar an architecture and arm: does a deeper trunk gain more?"""
    laws = [(s, s.law) for arm in arms for s in summaries if s.law is not None and s.arm == arm]
    if not laws:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no law:\nthe report says why", ha="center", va="center", transform=ax.transAxes)
        return
    # bars of one arm stand together, with the room of half a bar before those of the next
    places = [place + 0.5 * arms.index(summary.arm) for place, (summary, _) in enumerate(laws)]
    for place, (summary, law) in zip(places, laws):
        gain, colour = law.per_decade, colours[summary.arch]
        ax.bar(place, gain.value, width=0.55, color=colour, alpha=0.25)
        ends = [[max(gain.value - gain.low, 0.0)], [max(gain.high - gain.value, 0.0)]]
        ax.errorbar(place, gain.value, ends, fmt="o", color=colour, capsize=4)
    ax.axhline(0, color="#5b6b7c", linewidth=0.8)
    names = ["\n".join(map(in_picture, filter(None, (summary.arch, summary.arm)))) for summary, _ in laws]
    ax.set_xticks(places, names, fontsize="small" if len(arms) > 1 else None)
    ax.set_xlim(-0.6, places[-1] + 0.6)
    ax.set_title("AP per tenfold images", loc="left", fontsize="medium")
    ax.set_xlabel(f"lines: {_interval(law for _, law in laws)} of the law", fontsize="small")
    ax.grid(True, axis="y", color="#d0d0d0", linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
