"""Charts hold what they are given, where it belongs, and escape every text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from scaleprior.pages.charts import Axis, Bars, Series, bar_chart, xy_chart


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0, 100), [0, 50, 100]),
        (Axis("", 0, 7), [0, 2, 4, 6]),
        (Axis("", -0.3, 0.3), [-0.2, 0, 0.2]),
        (Axis("", 1, 1000, log=True), [1, 10, 100, 1000]),
        (Axis("", 8, 200, log=True), [10, 20, 50, 100, 200]),
        (Axis("", 1, 1e9, log=True), [1, 100, 1e4, 1e6, 1e8]),
    ],
)
def test_ticks_are_round_few_and_inside(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)


def test_a_place_is_linear_or_logarithmic() -> None:
    assert Axis("", 10, 20).place(12.5) == 0.25
    assert Axis("", 1, 10_000, log=True).place(100) == pytest.approx(0.5)


def test_an_axis_around_one_value_or_none_has_an_extent() -> None:
    for axis in (Axis.around("", [5.0]), Axis.around("", [5.0], log=True), Axis.around("", []), Axis.around("", [0.0])):
        assert axis.low < axis.high
    assert Axis.around("", [3, 9], zero=True).low == 0
    assert Axis.around("", [392, 393], log=True).ticks() == [200, 500]


def test_points_stand_where_their_values_are() -> None:
    """The area is 390 x 208 units with its lower left corner at (54, 234)."""
    svg = xy_chart([Series([(1, 1), (10, 100)], "all"), Series([(5.5, 10)], dots=True)],
                   Axis("x", 1, 10), Axis("y", 1, 100, log=True), label="l")  # fmt: skip
    (line,) = re.findall(r'points="(.*?)"', svg)
    assert line == "54.0,234.0 444.0,26.0"
    assert re.findall(r'cx="(.*?)" cy="(.*?)"', svg) == [("249.0", "130.0")]


def test_bars_are_as_high_as_their_values() -> None:
    svg = bar_chart(["a", "b", "c"], Bars([10, 5, 0]), x_title="x", y_title="y", label="l")
    tall, half, none = (float(h) for h in re.findall(r'class="bar c1".*?height="(.*?)"', svg))
    assert tall == pytest.approx(2 * half, abs=0.2)  # written with one decimal
    assert none == 0


def test_the_legend_is_above_the_plot_and_its_names_apart() -> None:
    svg = xy_chart([Series([(1, 1)], "as given"), Series([(1, 1)], "with ancestors", dashed=True)],
                   Axis("x", 0, 2), Axis("y", 0, 2), label="l")  # fmt: skip
    entries = [
        (float(x), name) for x, name in re.findall(r'<text x="(\d+)" y="14" text-anchor="end">(.*?)</text>', svg)
    ]
    assert [name for _, name in entries] == ["with ancestors", "as given"]
    assert entries[1][0] + 26 < entries[0][0] - 7 * len("with ancestors")


def test_text_is_escaped_and_the_chart_is_xml() -> None:
    bad = '<script>alert("1")</script>&'
    charts = [
        xy_chart([Series([(1, 1)], bad)], Axis(bad, 0, 2), Axis(bad, 0, 2), label=bad),
        bar_chart([bad], Bars([1], bad), Bars([2], bad), x_title=bad, y_title=bad, label=bad),
        bar_chart([], Bars([]), x_title="", y_title="", label=""),
    ]
    for chart in charts:
        assert "<script" not in chart
        ElementTree.fromstring(chart)
