"""Draws a law: measurements, curve, interval, forecast and the competing forms on a logarithmic axis of images."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleprior.laws.legends import FORECAST, legend_below, legend_inside, once, runs_of
from scaleprior.laws.words import number, percent
from scaleprior.pages.texts import in_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scaleprior.laws.forms.form import Array
    from scaleprior.laws.law import Law

__all__ = ["draw_law", "save_laws"]

_POINTS = 241
_DENSE = 801  # at which a law is asked before its corners are rounded
_ROUNDED = 0.025  # of the axis: how far a corner of a curve is spread to each side
_LABEL = 34  # characters of a line in the legend, of which two columns fit the picture of save_laws
_LAW_COLOURS = (
    "#1f5fa8", "#c44e1b", "#2e7d4f", "#7a3e9d", "#8a6d00", "#0f8a94", "#b02a5b", "#5a5a5a", "#6fa8dc", "#e09c4e",
    "#8fbf6b", "#b79ad6",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v")  # the next one where the colours begin again
_FEW_TENS = 200.0  # an axis from its left end to this many times that
_FEW = 3  # laws whose legend stands inside the picture
_MANY_POINTS = 60  # that would hide the law that goes through them
_FORM_COLOURS = ("#b5651d", "#7a5195", "#3a7d44", "#a23b72", "#5b6770", "#8c7a00", "#1b7f8c")
_DASHES = (0, (4, 2))
_ROOM = 0.30  # above the laws, for a legend, as a share of their height


def draw_law(
    ax: Axes,
    law: Law,
    *,
    label: str = "",
    color: str = "#1f5fa8",
    until: float | None = None,
    forms: bool = True,
    ylabel: str = "AP",
    marker: str = "o",
    legend: bool = True,
    faint: bool = False,
) -> None:
    """Draw one law into ``ax``; call again with another colour for another.

    Measurements are points (one per seed), the law is solid over the data and dashed beyond, its interval for a new
    measurement is the band, and the forms it combines or rejected are thin lines. The corners that a law has where one
    form takes over from another are rounded, by less than the line is wide.

    Args:
        ax: matplotlib axes; its x axis is made logarithmic.
        label: name in the legend, for example the architecture.
        until: images up to which to forecast; a factor of 5 beyond the data by default.
        forms: draw the competing forms, too.
        ylabel: the metric's name.
        marker: of the measurements, as matplotlib calls it.
        legend: name all that was drawn, each thing once, with room for it above; False leaves it to the caller, who has
            :func:`scaleprior.laws.legends.legend_entries`.
        faint: a band so pale that many laws can be told apart.
    """
    last = float(law.data.n.max())
    end = max(until or 5.0 * last, last)
    grid = np.geomspace(float(law.data.n.min()), end, _POINTS)
    grid = np.unique(np.append(grid, last))
    mean, low, high = _rounded(law.predict, grid)
    inside, beyond = grid <= last, grid >= last
    ax.set_xscale("log")
    before = (*ax.get_xlim(), *ax.get_ylim()) if ax.has_data() else (np.inf, 0.0, np.inf, -np.inf)
    band = f"{percent(law.level)} interval"
    ax.fill_between(
        grid, low, high, color=color, alpha=0.06 if faint else 0.14, linewidth=0, label=once(ax, band), zorder=1
    )
    if forms:
        _draw_forms(ax, law, grid)
    name = textwrap.fill(in_picture(f"{label} law".strip()), _LABEL, break_long_words=False)
    ax.plot(grid[inside], mean[inside], color=color, linewidth=1.8, label=name, zorder=4)
    many = law.data.n.size > _MANY_POINTS
    ax.plot(
        law.data.n, law.data.metric, marker, color=color, markersize=2.5 if many else 4.5, alpha=0.45 if many else 1.0,
        markeredgecolor="white", markeredgewidth=0.0 if many else 0.6, label=runs_of(name), zorder=3 if many else 5,
    )  # fmt: skip
    if end > last:
        dashed = {"color": color, "linewidth": 1.8, "linestyle": _DASHES, "zorder": 4}
        ax.plot(grid[beyond], mean[beyond], label=once(ax, FORECAST), **dashed)
    values = np.concatenate([law.data.metric, mean, low[inside], high[inside]])
    _widen(ax, before, values, float(grid[0]), end, room=_ROOM if legend else 0.06)
    _dress(ax, ylabel)
    if legend:
        legend_inside(ax)


def _dress(ax: Axes, ylabel: str) -> None:
    """Names, ticks and grid of the axes."""
    ax.set_xlabel("pretraining images")
    ax.set_ylabel(in_picture(ylabel))
    ax.xaxis.set_major_formatter(lambda value, _: number(value))
    _between_tens(ax)
    ax.grid(True, which="major", color="#d0d0d0", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _rounded(curves: Callable[[Array], Sequence[Array]], grid: Array) -> list[Array]:
    """Curves at ``grid`` [K], with their corners spread over a small part of the axis.

    The mean of a law is one of order statistics where its rungs are few: it has corners where one form passes another.
    The average under a narrow bell along the axis moves a straight line by nothing and these curves by less than the
    width they are drawn with; it is taken from a grid that goes on beyond both ends, which stay where they are.
    """
    from scipy.ndimage import gaussian_filter1d

    at = np.log(grid)
    width = _ROUNDED * (at[-1] - at[0])
    dense = np.linspace(at[0] - 4.0 * width, at[-1] + 4.0 * width, _DENSE)
    bell = width / (dense[1] - dense[0])
    return [np.interp(at, dense, gaussian_filter1d(curve, bell, mode="nearest")) for curve in curves(np.exp(dense))]


def _between_tens(ax: Axes) -> None:
    """Label 2 and 5 times a power of ten where the axis has few powers of ten, so that it can be read off."""
    from matplotlib.ticker import LogLocator

    left, right = ax.get_xlim()
    few = right / max(left, 1e-300) < _FEW_TENS
    ax.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0) if few else "auto"))
    ax.xaxis.set_minor_formatter(lambda value, _: number(value) if few else "")
    ax.tick_params(axis="x", which="minor", labelsize="x-small" if few else None)


def _draw_forms(ax: Axes, law: Law, grid: Array) -> None:
    """Thin lines of the equally weighted candidates; rejected ones are dotted and marked so in the legend."""
    curves = _rounded(lambda n: list(law.data.to_metric(np.exp(law.form_curves(n)))), grid)
    shown = [i for i, c in enumerate(law.candidates) if c.power == 0]
    for colour, i in zip(itertools.cycle(_FORM_COLOURS), shown):
        name = law.candidates[i].form.name
        used = law.selection.weights[i] > 0
        style = {"linewidth": 0.8, "linestyle": "-" if used else ":", "alpha": 0.7}
        ax.plot(grid, curves[i], color=colour, label=name if used else f"{name} (not used)", zorder=2, **style)


def _widen(
    ax: Axes, before: tuple[float, float, float, float], values: Array, first: float, end: float, *, room: float
) -> None:
    """Set limits that hold the measurements and the law, wide forecast bands and runaway forms cut off.

    Args:
        before: limits (left, right, bottom, top) that show what was drawn earlier.
        room: above, as a share of the height.
    """
    low, high = float(values.min()), float(values.max())
    span = max(high - low, 1e-9)
    left, right, bottom, top = before
    # nothing below 0, where neither scores nor errors can be
    ax.set_ylim(min(bottom, max(low - 0.06 * span, -0.02 * span)), max(top, high + room * span))
    ax.set_xlim(min(left, first / 1.15), max(right, end * 1.15))


def save_laws(
    path: str | Path,
    laws: Mapping[str, Law],
    *,
    ylabel: str = "AP",
    until: float | None = None,
    file_format: str = "png",
) -> None:
    """Write one picture with every law, at column width; the competing forms are shown where there is only one law."""
    # Figure and not pyplot: no global state, no display, safe in threads
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), dpi=160, layout="constrained")
    ax = figure.subplots()
    inside = 1 < len(laws) <= _FEW and max(map(len, laws)) <= _LABEL
    for i, (name, law) in enumerate(laws.items()):
        draw_law(
            ax, law, label=name, until=until, ylabel=ylabel, forms=len(laws) == 1, legend=inside,
            color=_LAW_COLOURS[i % len(_LAW_COLOURS)], marker=_MARKERS[i // len(_LAW_COLOURS) % len(_MARKERS)],
            faint=len(laws) > _FEW,
        )  # fmt: skip
    if not inside:
        legend_below(figure, ax)
    figure.savefig(path, format=file_format)
