"""Charts as SVG inside a page: sharp at every size, in the page's colours in light and dark, made without matplotlib.

A chart is drawn in a box of 460 x 280 units that the page scales to its column. Text in it is escaped, so a template
may take it as ``safe``.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scaleprior.pages.numbers import count, short
from scaleprior.pages.texts import visible

__all__ = ["Axis", "Bars", "Series", "bar_chart", "xy_chart"]

_WIDTH, _HEIGHT = 460, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 16, 26, 46  # around the plot; the legend is above it
_CHARACTER = 7.0  # units that one takes at most, nearly always


@dataclass(frozen=True)
class Axis:
    """What an axis measures and from where to where.

    Attributes:
        title: with its unit.
        low, high: its ends; above 0 where it is logarithmic.
        log: logarithmic.
    """

    title: str
    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, title: str, values: Sequence[float], *, log: bool = False, zero: bool = False) -> Axis:
        """An axis that holds ``values`` with a little room; from 0 where ``zero``; a range of its own if they agree."""
        low, high = (min(values), max(values)) if values else (1.0, 10.0)
        if log:
            room = max((high / low) ** 0.04, 1.15, 2 / (high / low) ** 0.5)  # a factor of 4 has two ticks at least
            return cls(title, low / room, high * room, log=True)
        low = 0.0 if zero else low
        room = 0.05 * (high - low) or 1.0
        return cls(title, low if zero else low - room, high + room)

    def place(self, value: float) -> float:
        """Where ``value`` lies, 0 at the low end and 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values inside the axis, about three to seven of them."""
        return [t for t in (self._decades() if self.log else self._steps()) if self.low <= t <= self.high]

    def _decades(self) -> Iterator[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        decades = math.log10(self.high / self.low)
        within = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
        stride = max(1, round(decades / 6))
        yield from (factor * 10.0**power for power in range(first, last + 1, stride) for factor in within)

    def _steps(self) -> Iterator[float]:
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self.low / step)
        yield from (round(k * step, 12) for k in range(first, math.floor(self.high / step) + 1))


@dataclass(frozen=True)
class Series:
    """Points (x, y), as a line or as dots.

    Attributes:
        name: what the legend calls it; "" for none.
        accent: 1 or 2, the page's first or second colour.
        dashed: a line that is broken.
    """

    points: Sequence[tuple[float, float]]
    name: str = ""
    dots: bool = False
    accent: int = 1
    dashed: bool = False


@dataclass(frozen=True)
class Bars:
    """Heights of one group of bars, 0 or more, and what the legend calls it; "" for no legend."""

    heights: Sequence[float]
    name: str = ""


def xy_chart(series: Sequence[Series], x: Axis, y: Axis, *, label: str) -> str:
    """Lines and dots over two axes.

    Args:
        label: what the chart shows, for who cannot see it.
    """
    parts = [*_y_axis(y), *_x_axis(x)]
    for one in series:
        at = [(_across(x.place(a)), _up(y.place(b))) for a, b in one.points]
        if one.dots:
            parts += [f'<circle class="dot c{one.accent}" cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>' for a, b in at]
        elif at:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
            dash = " dashed" if one.dashed else ""
            parts.append(f'<polyline class="line c{one.accent}{dash}" points="{path}"/>')
    parts += _legend([(one.name, f"line c{one.accent}{' dashed' if one.dashed else ''}") for one in series])
    return _svg(parts, label)


def bar_chart(names: Sequence[str], *groups: Bars, x_title: str, y_title: str, label: str) -> str:
    """Bars side by side, a name below each place; names that would overlap are left out evenly.

    Args:
        names: of the places along the axis.
        groups: heights at every place, 0 or more; several stand beside each other.
        label: what the chart shows, for who cannot see it.
    """
    y = Axis.around(y_title, [value for group in groups for value in group.heights] or [1], zero=True)
    parts = list(_y_axis(y))
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(names), 1)
    gap = min(3.0, 0.15 * step)
    width = (step - gap) / max(len(groups), 1)
    every = max(1, math.ceil((_CHARACTER * max(map(len, names), default=1) + 6) / step))
    for place, name in enumerate(names):
        left = _LEFT + place * step
        for number, group in enumerate(groups):
            value = group.heights[place]
            top = _up(y.place(value))
            said = _escaped(f"{name}: {count(value)}{f' {group.name}' if group.name else ''}")
            parts.append(
                f'<rect class="bar c{number + 1}" x="{left + gap / 2 + number * width:.1f}" y="{top:.1f}" '
                f'width="{width:.1f}" height="{_HEIGHT - _BOTTOM - top:.1f}"><title>{said}</title></rect>'
            )
        if place % every == 0:
            parts.append(_tick_text(left + step / 2, name))
    parts += _legend([(group.name, f"bar c{number}") for number, group in enumerate(groups, start=1)])
    parts.append(_x_title(x_title))
    return _svg(parts, label)


def _legend(entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Names with the style of what they name, above the plot, from its right end to the left."""
    end = float(_WIDTH - _RIGHT)
    for name, style in reversed([entry for entry in entries if entry[0]]):
        if style.startswith("bar"):
            yield f'<rect class="{style}" x="{end - 20:.0f}" y="5" width="20" height="10"/>'
        else:
            yield f'<line class="{style}" x1="{end - 20:.0f}" x2="{end:.0f}" y1="10" y2="10"/>'
        yield f'<text x="{end - 26:.0f}" y="14" text-anchor="end">{_escaped(name)}</text>'
        end -= 46 + _CHARACTER * len(name)


def _across(place: float) -> float:
    return _LEFT + place * (_WIDTH - _LEFT - _RIGHT)


def _up(place: float) -> float:
    return _HEIGHT - _BOTTOM - place * (_HEIGHT - _TOP - _BOTTOM)


def _y_axis(axis: Axis) -> Iterator[str]:
    for tick in axis.ticks():
        at = _up(axis.place(tick))
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text x="{_LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{short(tick)}</text>'
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    yield (
        f'<text class="title" transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{_escaped(axis.title)}</text>"
    )


def _x_axis(axis: Axis) -> Iterator[str]:
    for tick in axis.ticks():
        at = _across(axis.place(tick))
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        yield _tick_text(at, short(tick))
    yield _x_title(axis.title)


def _tick_text(at: float, text: str) -> str:
    return f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{_escaped(text)}</text>'


def _x_title(text: str) -> str:
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return f'<text class="title" x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return html.escape(visible(text))


def _svg(parts: Sequence[str], label: str) -> str:
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_escaped(label)}">'
    return head + "".join(parts) + "</svg>"
