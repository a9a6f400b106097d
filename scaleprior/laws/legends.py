"""Legends of pictures of laws: each thing is named once, however many laws are drawn into however many axes."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORECAST", "legend_below", "legend_entries", "legend_inside", "once", "runs_of"]

FORECAST = "forecast"
_INTERVAL = " interval"
_GREY = "#555555"  # of what laws of several colours have in common
_LINE = 84  # characters of a line below a picture at column width
_COLUMNS = {3: 22, 2: 34}  # columns of a legend there -> characters of its longest label
_LINE_HEIGHT = 0.16  # inches
_LAW: dict[str, Any] = {"linewidth": 1.8, "markersize": 4.5}
_STYLE: dict[str, Any] = {"fontsize": "x-small", "facecolor": "white", "edgecolor": "none", "framealpha": 0.8}


def once(ax: Axes, label: str) -> str:
    """The label for an artist, or one that no legend shows where the axes have an artist of this label."""
    return f"_{label}" if label in ax.get_legend_handles_labels()[1] else label


def runs_of(law: str) -> str:
    """The label of a law's points, which no legend shows: they are part of the law's entry."""
    return f"_runs of {law}"


def legend_entries(*axes: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels of what was drawn into axes, each once: laws, what else has a label, then dashes and bands.

    A law's entry is its line with the marker of its runs. Dashes and bands are grey where there are several laws.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    laws: dict[tuple[str, str], Any] = {}
    others: dict[tuple[str, str], Any] = {}
    common: dict[tuple[str, str], Any] = {}
    for ax in axes:
        runs = {str(line.get_label()): line for line in ax.lines}
        for handle, label in zip(*ax.get_legend_handles_labels()):
            if label == FORECAST or label.endswith(_INTERVAL):
                common.setdefault((label, ""), handle)
            elif (dots := runs.get(runs_of(label))) is not None:
                colour = cast(Line2D, handle).get_color()
                laws.setdefault((label, str(colour)), Line2D([], [], color=colour, marker=dots.get_marker(), **_LAW))
            else:
                others.setdefault((label, str(getattr(handle, "get_color", str)())), handle)
    if len(laws) > 1:
        dashes = {"color": _GREY, "linewidth": 1.8, "linestyle": (0, (4, 2))}
        common = {
            key: Line2D([], [], **dashes) if key[0] == FORECAST else Patch(color=_GREY, alpha=0.18, linewidth=0)
            for key in common
        }
    # dashes before the band, whichever was drawn first
    last = sorted(common.items(), key=lambda entry: entry[0][0] != FORECAST)
    entries = [*laws.items(), *others.items(), *last]
    return [handle for _, handle in entries], [label for (label, _), _ in entries]


def legend_inside(ax: Axes) -> None:
    """A legend of two columns within the axes, where it hides least."""
    ax.legend(*legend_entries(ax), ncols=2, loc="best", **_STYLE)


def legend_below(figure: Figure, ax: Axes) -> None:
    """A legend below the axes, which hides nothing; the picture grows by it."""
    handles, labels = legend_entries(ax)
    longest = max(len(line) for label in labels for line in label.splitlines())
    columns = next((columns for columns, room in _COLUMNS.items() if longest <= room), 1)
    if columns == 1:
        labels = [textwrap.fill(label, _LINE, break_long_words=False) for label in labels]
    lines = sum(label.count("\n") + 1 for label in labels) / columns
    figure.set_figheight(figure.get_figheight() + _LINE_HEIGHT * (lines + 1))
    figure.legend(handles, labels, ncols=columns, loc="outside lower center", **_STYLE)
