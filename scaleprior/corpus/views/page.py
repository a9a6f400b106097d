"""A corpus as a page for a browser: the tail, every label, sample images, sizes. One file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleprior._version import __version__
from scaleprior.corpus.views.sheet import draw_strips, head_middle_tail
from scaleprior.pages.charts import Axis, Bars, Series, bar_chart, xy_chart
from scaleprior.pages.environment import data_uri, render
from scaleprior.pages.numbers import short

if TYPE_CHECKING:
    from scaleprior.corpus.fraction import Fraction
    from scaleprior.corpus.views.header_sample import HeaderSample
    from scaleprior.corpus.views.statistics import CorpusStatistics

__all__ = ["corpus_page", "integer_chart", "pixel_chart", "size_chart", "tail_chart"]

_LABELS_EACH = 8  # labels shown of the head, of the middle and of the tail
_IMAGES_EACH = 8  # images shown of each
_DOTS = 1500  # of a chart: more hide each other and weigh on the page
_POINTS = 300  # of a line


def corpus_page(fraction: Fraction, stats: CorpusStatistics) -> str:
    """The page of ``fraction``, whose statistics are ``stats``; a few megabytes for any number of images.

    18,000 labels make a page of 3 MB: two of sample images (24 labels, 8 images each) and one of the table.
    """
    given = stats.given
    parts = head_middle_tail(len(given), _LABELS_EACH)
    chosen = [given[k] for places in parts.values() for k in places]
    strips = iter(draw_strips(fraction, chosen, per_label=_IMAGES_EACH))
    named = any(label.name != label.id for label in stats.labels)
    hierarchical = any(fraction.label_space.parents)
    heads, rows = _table(stats, named=named, hierarchical=hierarchical)
    per_image = [("as given" if hierarchical else "", stats.per_image)]
    per_image += [("with ancestors", stats.closed_per_image)] if hierarchical else []
    headers = stats.headers
    varied = headers is not None and headers.read > 0 and len(np.unique(headers.sizes, axis=0)) > 1
    return render(
        "scaleprior.corpus.views",
        "corpus.html.jinja",
        {
            "name": stats.name,
            "version": __version__,
            "stats": stats,
            "hierarchical": hierarchical,
            "tail_chart": tail_chart(
                [label.images for label in given], sorted((label.closed for label in stats.labels), reverse=True),
                what="label",
            ),
            "per_image_chart": integer_chart(*per_image, x_title="labels", y_title="images"),
            "heads": heads,
            "rows": rows,
            "sorted": heads.index("images"),
            "strips": {part: [next(strips) for _ in places] for part, places in parts.items()},
            "headers": headers,
            "size_chart": size_chart(headers.sizes[:_DOTS].tolist()) if headers is not None and varied else "",
            "pixel_chart": pixel_chart(headers) if headers is not None and varied else "",
            "facts": _facts(fraction),
        },
        filters={"data_uri": data_uri},
    )  # fmt: skip


def tail_chart(counts: Sequence[int], closed: Sequence[int], *, what: str, counted: str = "images") -> str:
    """Images against rank, both logarithmic.

    Args:
        counts: images of each label as given, descending.
        closed: with all ancestors, descending; drawn where it differs.
        what, counted: what is ranked and by what, for the axes.
    """
    lines = [Series(_thinned(counts), "as given")]
    if list(closed[: len(counts)]) != list(counts):
        lines.append(Series(_thinned([c for c in closed if c]), "with ancestors", accent=2, dashed=True))
    else:
        lines = [Series(lines[0].points)]
    values = [y for line in lines for _, y in line.points]
    last = max((line.points[-1][0] for line in lines if line.points), default=1)
    x = Axis(f"rank of the {what}", 1, max(last, 2), log=True)
    return xy_chart(
        lines, x, Axis.around(counted, values, log=True), label=f"{counted} of each {what} against its rank"
    )


def integer_chart(*histograms: tuple[str, np.ndarray], x_title: str, y_title: str) -> str:
    """Bars of histograms of whole numbers, ``histogram[k]`` of k, each with its name; wide ones in bins that double."""
    length = max(len(histogram) for _, histogram in histograms)
    edges = [0, 1, 2, 3, *(2**power + 1 for power in range(2, 64))] if length > 17 else list(range(length + 1))
    spans = [(low, high) for low, high in pairwise(edges) if low < length]
    names = [str(low) if high - low == 1 else f"{low}-{high - 1}" for low, high in spans]
    bars = [Bars([int(counts[low:high].sum()) for low, high in spans], name) for name, counts in histograms]
    return bar_chart(names, *bars, x_title=x_title, y_title=y_title, label=f"{y_title} by {x_title}")


def size_chart(sizes: Sequence[tuple[int, int]]) -> str:
    """Width against height, a dot an image."""
    widths, heights = zip(*sizes)
    return xy_chart(
        [Series(sizes, dots=True)],
        Axis.around("width (px)", widths, log=True),
        Axis.around("height (px)", heights, log=True),
        label="width and height of images",
    )


def pixel_chart(headers: HeaderSample) -> str:
    """A histogram of width times height in twelve bins of equal ratio."""
    pixels = headers.sizes.astype(np.int64).prod(axis=1)
    edges = np.geomspace(pixels.min(), pixels.max() + 1, 13) if pixels.max() > pixels.min() else pixels[:1] * [1, 2]
    heights, _ = np.histogram(pixels, edges)
    names = [short(float(f"{low:.2g}")) for low in edges[:-1]]
    bars = Bars(heights.tolist())
    return bar_chart(names, bars, x_title="pixels, lower end of the bin", y_title="images", label="images by size")


def _thinned(counts: Sequence[int]) -> list[tuple[float, float]]:
    """(rank, images) at ranks that are evenly spread on a logarithmic axis, the first and the last among them."""
    if not counts:
        return []
    ranks = np.unique(np.geomspace(1, len(counts), min(len(counts), _POINTS)).round().astype(int))
    return [(rank, counts[rank - 1]) for rank in ranks.tolist()]


def _table(stats: CorpusStatistics, *, named: bool, hierarchical: bool) -> tuple[list[str], list[list[Any]]]:
    heads = [*(["label", "name"] if named else ["label"]), "images"]
    heads += ["with descendants"] if hierarchical else []
    heads += ["absent"] if stats.has_absent else []
    rows = []
    for label in stats.labels:
        row: list[Any] = [*([label.id, label.name] if named else [label.id]), label.images]
        row += [label.closed] if hierarchical else []
        row += [label.absent] if stats.has_absent else []
        rows.append(row)
    return heads, rows


def _facts(fraction: Fraction) -> dict[str, Any]:
    facts = fraction.corpus.facts
    shown = {
        "source": facts["source"]["kind"],
        "images are at": str(fraction.corpus.root),
        "part": f"{fraction.images:,} of {len(fraction.corpus):,} images",
        "skipped when it was built": facts["skipped"]["count"],
        "every image was decoded then": "yes" if facts["verified"] else "no",
        "salt": facts["salt"] or "none",
        "fingerprint": fraction.fingerprint,
    }
    return {key: f"{value:,}" if type(value) is int else value for key, value in shown.items()}
