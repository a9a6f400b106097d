"""The picture of a run: loss, learning rate, throughput, and what was measured on the way, from the figures it left."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.files import atomic_path
from scaleprior.pages.numbers import short
from scaleprior.pages.texts import in_picture
from scaleprior.pretrain.figures.json_lines import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CURVES", "Curves", "draw_curves", "read_curves", "save_curves"]

CURVES = "curves.png"
_EVENTS = "metrics.json"  # as the runtime of Detectron2 leaves it: iterations count from 0
_NAMES = {"total_loss": "loss"}
_SERIES = ("loss", "lr", "images_per_s", "waited")
_SHOWN = {
    "held_out/map": "held-out mAP",
    "held_out/precision_at_1": "held-out precision at 1",
    "probe/linear_accuracy": "linear probe, accuracy",
    "probe/linear_map": "linear probe, mAP",
    "probe/knn_accuracy": "k-NN probe, accuracy",
    "probe/knn_map": "k-NN probe, mAP",
}
_COLOURS = ("#1f5fa8", "#c4561b", "#2e7d4f", "#7a3e9d", "#8a6d00", "#0f8a94")
_GRID = "#d0d0d0"
_ROOM = (0.03, 0.08)  # of the largest value, below nothing and above it
_FEW = 40  # points that are shown one by one
_MANY = 200  # points of which a running median is drawn
_WIDE = 5.0  # the largest loss over the smallest from which on its axis is logarithmic

Points = list[tuple[float, float]]


@dataclass
class Curves:
    """What a run left, each as points (step, value) in the order of the steps.

    Attributes:
        series: "loss", "lr", "images_per_s", "waited". measured: by names like "held_out/map".
    """

    series: dict[str, Points] = field(default_factory=dict)
    measured: dict[str, Points] = field(default_factory=dict)


def read_curves(out: Path) -> Curves:
    """The figures in the folder of a run, of either runtime, or of both where it went from one to the other."""
    rows: dict[int, dict[str, float]] = {}
    ends: list[tuple[int, dict[str, float]]] = []
    for path, key, shift in ((out / _EVENTS, "iteration", 1), (out / METRICS, "step", 0)):
        for row in _rows(path):
            step = int(row.pop(key)) + shift
            if shift and "total_loss" not in row:
                ends.append((step - 1, row))  # the end's, which Detectron2 counts as one more
            else:
                rows.setdefault(step, {}).update({_NAMES.get(name, name): value for name, value in row.items()})
    for step, row in ends:
        rows.setdefault(step, {}).update(row)
    found = Curves()
    for step in sorted(rows):
        row = rows[step]
        if "data_time" in row and row.get("time"):
            row.setdefault("waited", min(row["data_time"] / row["time"], 1.0))
        for name, value in row.items():
            kind = found.series if name in _SERIES else found.measured if name in _SHOWN else None
            if kind is not None:
                kind.setdefault(name, []).append((step, value))
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:  # cut off by a kill
            continue
    return rows


def save_curves(out: Path, *, title: str = "") -> Path | None:
    """Draw :data:`CURVES` into the folder of a run; None where it left no figures.

    Args:
        title: of the picture.
    """
    curves = read_curves(out)
    if not curves.series.get("loss"):
        return None
    figure = draw_curves(curves, title=title)
    with atomic_path(out / CURVES) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return out / CURVES


def draw_curves(curves: Curves, *, title: str = "") -> Figure:
    """The figure: loss at the left, what was measured below it, rate and throughput at the right."""
    # Figure and not pyplot: no global state, no display, safe in threads
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 5.6), layout="constrained")
    if title:
        figure.suptitle(in_picture(title), x=0.01, ha="left", fontsize="large")
    grid = figure.add_gridspec(2, 2, width_ratios=[1.5, 1])
    measured = bool(curves.measured)
    loss = figure.add_subplot(grid[0, 0] if measured else grid[:, 0])
    axes = [loss, figure.add_subplot(grid[0, 1], sharex=loss), figure.add_subplot(grid[1, 1], sharex=loss)]
    _draw_loss(loss, curves.series["loss"])
    _draw_rate(axes[1], curves.series.get("lr", []))
    _draw_speed(axes[2], curves.series)
    if measured:
        axes.append(figure.add_subplot(grid[1, 0], sharex=loss))
        _draw_measured(axes[3], curves.measured)
    steps = [step for points in (*curves.series.values(), *curves.measured.values()) for step, _ in points]
    for ax in axes:
        _dress(ax, min(steps), max(steps))
    for ax in (axes[0], axes[1]) if measured else (axes[1],):
        ax.tick_params(labelbottom=False)  # the panel below has the same steps
        ax.set_xlabel("")
    return figure


def _dress(ax: Axes, first: float, last: float) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.grid(True, which="major", color=_GRID, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    ax.xaxis.set_major_formatter(lambda value, _: short(value))
    room = max(0.02 * (last - first), 0.5)
    ax.set_xlim(first - room, last + room)


def _draw(ax: Axes, points: Points, title: str, *, noisy: bool = False, said: bool = False) -> None:
    """A line; of many ``noisy`` points a thin one with their running median, of which ``said`` makes a legend."""
    ax.set_title(title, loc="left", fontsize="medium")
    steps, values = [step for step, _ in points], [value for _, value in points]
    smooth = noisy and len(points) > _MANY
    style = {"color": _COLOURS[0], "linewidth": 0.7 if smooth else 1.5, "alpha": 0.35 if smooth else 1.0}
    ax.plot(steps, values, **style, **_marks(points))
    if smooth:
        window = _window(points)
        ax.plot(steps, _median(values, window), color=_COLOURS[0], linewidth=1.8, label=f"median of {window} lines")
        if said:
            ax.legend(frameon=False, fontsize="small", loc="upper right")


def _marks(points: Points) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.5} if len(points) <= _FEW else {}


def _window(points: Points) -> int:
    return max(len(points) // 120 * 2 + 1, 5)


def _median(values: Sequence[float], window: int) -> list[float]:
    half = window // 2
    return [statistics.median(values[max(place - half, 0) : place + half + 1]) for place in range(len(values))]


def _draw_loss(ax: Axes, points: Points) -> None:
    _draw(ax, points, "loss", noisy=True, said=True)
    values = [value for _, value in points]
    if min(values) > 0 and max(values) > _WIDE * min(values):
        _logarithmic(ax, min(values), max(values))


def _draw_rate(ax: Axes, points: Points) -> None:
    """Logarithmic where it falls by stages; a warmup from nothing or a cosine's end at nothing is a straight axis'."""
    _draw(ax, points, "learning rate")
    ordered = sorted(value for _, value in points)
    tenth = len(ordered) // 10
    if ordered and ordered[0] > 0 and ordered[len(ordered) // 2] < ordered[-1] / 4 and ordered[tenth] > ordered[0] / 4:
        _logarithmic(ax, ordered[0], ordered[-1])
    else:
        _from_nothing(ax, ordered[-1] if ordered else 0.0)


def _from_nothing(ax: Axes, top: float) -> None:
    """From 0 up, with room for the points that lie on the ends."""
    top = top or 1.0
    ax.set_ylim(-_ROOM[0] * top, (1 + _ROOM[1]) * top)


def _logarithmic(ax: Axes, low: float, high: float) -> None:
    """A logarithmic axis that can be read off where it has few powers of ten, too."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,), numticks=8))
    ax.yaxis.set_major_formatter(
        lambda value, _: f"{value:g}" if value >= 0.01 else f"{value:.0e}".replace("e-0", "e-")
    )
    ax.yaxis.set_minor_formatter(NullFormatter())


def _draw_speed(ax: Axes, series: Mapping[str, Points]) -> None:
    """Images a second, and below the share of the time in which steps waited for them."""
    points = series.get("images_per_s", [])
    _draw(ax, points, "images/s", noisy=True)
    _from_nothing(ax, max((value for _, value in points), default=0.0))
    ax.yaxis.set_major_formatter(lambda value, _: short(round(value, 1)))
    waited = series.get("waited", [])
    if not waited:
        return
    share = ax.twinx()
    share.set_zorder(ax.get_zorder() - 1)
    ax.patch.set_visible(False)
    steps, values = [step for step, _ in waited], [100 * value for _, value in waited]
    if len(waited) > _MANY:
        values = _median(values, _window(waited))
    if len(waited) == 1:
        share.plot(steps, values, "o", color=_COLOURS[1], markersize=3.5)
    share.fill_between(steps, values, color=_COLOURS[1], alpha=0.3, linewidth=0)
    _from_nothing(share, 100)
    share.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"], color=_COLOURS[1], fontsize="small")
    share.set_title("waited for data", loc="right", fontsize="small", color=_COLOURS[1])
    share.spines[["top", "right", "left", "bottom"]].set_visible(False)
    share.tick_params(length=0)


def _draw_measured(ax: Axes, measured: Mapping[str, Points]) -> None:
    """Shares, each with its last value in the legend; the axis ends where they do, as early ones are small."""
    ax.set_title("measured", loc="left", fontsize="medium")
    top = 0.0
    for colour, (name, said) in zip(_COLOURS, _SHOWN.items()):
        points = measured.get(name, [])
        if points:
            steps, values = [step for step, _ in points], [value for _, value in points]
            label = f"{said}: {values[-1]:.3f}"
            ax.plot(steps, values, color=colour, linewidth=1.5, label=label, **_marks(points))
            top = max(top, *values)
    _from_nothing(ax, top)
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(0.0, -0.24), ncols=2)
