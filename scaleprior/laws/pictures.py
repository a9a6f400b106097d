"""Draws a law: measurements, curve, interval, forecast and the competing forms on a logarithmic axis of images."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleprior.laws.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scaleprior.laws.law import Law

__all__ = ["draw_law", "save_laws"]

_POINTS = 160
_LABEL = 34  # characters of a line in the legend, of which two columns fit the picture of save_laws
_LINE = 2 * _LABEL + 16  # characters of a line across that picture
_LAW_COLOURS = ("#1f5fa8", "#c44e1b", "#2e7d4f", "#7a3e9d", "#8a6d00", "#0f8a94", "#b02a5b", "#5a5a5a")
_MARKERS = ("o", "s", "^", "D", "v")  # the next one where the colours begin again
_FEW_TENS = 200.0  # an axis from its left end to this many times that
_FEW = 3  # laws whose legend stands inside the picture
_FORM_COLOURS = ("#b5651d", "#7a5195", "#3a7d44", "#a23b72", "#5b6770", "#8c7a00", "#1b7f8c")


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
) -> None:
    """Draw one law into ``ax``; call again with another colour for another.

    Measurements are points (one per seed), the law is solid over the data and dashed beyond, its interval for a new
    measurement is the band, and the forms it combines or rejected are thin dotted lines.

    Args:
        ax: matplotlib axes; its x axis is made logarithmic.
        label: name in the legend, for example the architecture.
        until: images up to which to forecast; a factor of 5 beyond the data by default.
        forms: draw the competing forms, too.
        ylabel: the metric's name.
        marker: of the measurements, as matplotlib calls it.
    """
    first, last = float(law.data.n.min()), float(law.data.n.max())
    end = max(until or 5.0 * last, last)
    grid = np.unique(np.append(np.geomspace(first, end, _POINTS), last))
    mean, low, high = law.predict(grid)
    inside, beyond = grid <= last, grid >= last
    ax.set_xscale("log")
    before = (*ax.get_xlim(), *ax.get_ylim()) if ax.has_data() else (np.inf, 0.0, np.inf, -np.inf)
    ax.fill_between(grid, low, high, color=color, alpha=0.14, linewidth=0, label=f"{law.level:.0%} interval")
    if forms:
        _draw_forms(ax, law, grid)
    ax.plot(
        grid[inside],
        mean[inside],
        color=color,
        linewidth=1.8,
        label=textwrap.fill(f"{label} law".strip(), _LABEL, break_long_words=False),
    )
    if end > last:
        ax.plot(grid[beyond], mean[beyond], color=color, linewidth=1.8, linestyle=(0, (4, 2)), label="forecast")
    ax.plot(
        law.data.n, law.data.metric, marker, color=color, markersize=4, markeredgecolor="white", markeredgewidth=0.5
    )
    values = np.concatenate([law.data.metric, mean, low[inside], high[inside]])
    _widen(ax, before, values, first, end)
    ax.set_xlabel("pretraining images")
    ax.set_ylabel(ylabel)
    ax.xaxis.set_major_formatter(lambda value, _: number(value))
    _between_tens(ax)
    ax.grid(True, which="major", color="#d0d0d0", linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize="x-small", frameon=False, ncols=2)


def _between_tens(ax: Axes) -> None:
    """Label 2 and 5 times a power of ten where the axis has few powers of ten, so that it can be read off."""
    from matplotlib.ticker import LogLocator

    left, right = ax.get_xlim()
    few = right / max(left, 1e-300) < _FEW_TENS
    ax.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0) if few else "auto"))
    ax.xaxis.set_minor_formatter(lambda value, _: number(value) if few else "")
    ax.tick_params(axis="x", which="minor", labelsize="x-small" if few else None)


def _draw_forms(ax: Axes, law: Law, grid: np.ndarray) -> None:
    """Thin lines of the equally weighted candidates; rejected ones are marked so in the legend."""
    curves = law.form_curves(grid)
    shown = [i for i, c in enumerate(law.candidates) if c.power == 0]
    for colour, i in zip(itertools.cycle(_FORM_COLOURS), shown):
        name = law.candidates[i].form.name
        used = law.selection.weights[i] > 0
        metric = law.data.to_metric(np.exp(curves[i]))
        ax.plot(
            grid,
            metric,
            color=colour,
            linewidth=0.8,
            linestyle=":" if used else (0, (1, 4)),
            label=name if used else f"{name} (not used)",
        )


def _widen(ax: Axes, before: tuple[float, float, float, float], values: np.ndarray, first: float, end: float) -> None:
    """Set limits that hold the measurements and the law, wide forecast bands and runaway forms cut off.

    Args:
        before: limits (left, right, bottom, top) that show what was drawn earlier.
    """
    low, high = float(values.min()), float(values.max())
    span = max(high - low, 1e-9)
    left, right, bottom, top = before
    # room above for the legend; nothing below 0, where neither scores nor errors can be
    ax.set_ylim(min(bottom, max(low - 0.06 * span, -0.02 * span)), max(top, high + 0.30 * span))
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
    for i, (name, law) in enumerate(laws.items()):
        colour, marker = _LAW_COLOURS[i % len(_LAW_COLOURS)], _MARKERS[i // len(_LAW_COLOURS) % len(_MARKERS)]
        draw_law(
            ax, law, label=name, color=colour, until=until, forms=len(laws) == 1, ylabel=ylabel, marker=marker
        )  # fmt: skip
    if len(laws) > 1:
        _one_legend(figure, ax, laws)
    figure.savefig(path, format=file_format)


def _one_legend(figure: Figure, ax: Axes, laws: Mapping[str, Law]) -> None:
    """Name each law once, and once what dashes and bands are; below the picture where the names would hide it."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if (legend := ax.get_legend()) is not None:
        legend.remove()
    names = [f"{name} law".strip() for name in laws]
    solid = [line for line in ax.lines if line.get_linestyle() == "-" and np.size(line.get_xdata()) > 1]
    points = [line for line in ax.lines if line.get_linestyle() == "None"]
    handles: list[Any] = [
        Line2D([], [], color=line.get_color(), linewidth=1.8, marker=dots.get_marker(), markersize=4)
        for line, dots in zip(solid, points)
    ]
    level = next(iter(laws.values())).level
    handles += [Line2D([], [], color="#555555", linestyle=(0, (4, 2))), Patch(color="#555555", alpha=0.18)]
    labels = [*names, "forecast", f"{level:.0%} interval"]
    if len(laws) <= _FEW and max(map(len, names)) <= _LABEL:
        ax.legend(handles, labels, fontsize="x-small", frameon=False, ncols=2, loc="upper left")
        return
    columns = 2 if max(map(len, names)) <= _LABEL else 1
    labels = [textwrap.fill(label, _LINE, break_long_words=False) for label in labels]
    lines = sum(label.count("\n") + 1 for label in labels) / columns
    figure.set_figheight(figure.get_figheight() + 0.16 * lines)
    figure.legend(handles, labels, fontsize="x-small", frameon=False, ncols=columns, loc="outside lower center")
