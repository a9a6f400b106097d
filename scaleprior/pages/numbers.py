"""Numbers as people read them: thousands with commas, shares in per cent, bytes in decimal units."""

from __future__ import annotations

__all__ = ["count", "decimal", "share", "short", "size", "some"]


def count(value: float) -> str:
    """12345 -> ``12,345``; what is not whole keeps a decimal."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def decimal(value: float) -> str:
    """Three figures that mean something: 0.0123, 1, 1.23, 12.3, 123, 12,345."""
    size = abs(value)
    if size >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def share(value: float) -> str:
    """A share in [0, 1] in per cent, never rounded to none or to all: ``< 0.1 %``, ``> 99.9 %``."""
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def short(value: float) -> str:
    """For the ticks of an axis: 1200 -> ``1.2k``, 3000000 -> ``3M``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def size(value: float) -> str:
    """Bytes: 1234567 -> ``1.23 MB``, in powers of 1000."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f} bytes"


def some(number: int, one: str, many: str = "") -> str:
    """A number of things: ``some(1, "image")`` is ``1 image``, ``some(2, "box", "boxes")`` is ``2 boxes``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"
