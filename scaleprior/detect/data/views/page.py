"""A detection set as a page for a browser: boxes by class, size and shape, and samples with boxes. One file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from scaleprior._version import __version__
from scaleprior.corpus.views.page import integer_chart, size_chart, tail_chart
from scaleprior.corpus.views.sheet import head_middle_tail
from scaleprior.detect.data.coco import DetectionSet
from scaleprior.detect.data.views.samples import draw_samples
from scaleprior.detect.data.views.statistics import ClassCount, DetectionStatistics, detection_statistics
from scaleprior.files import write_text
from scaleprior.pages.charts import Bars, bar_chart
from scaleprior.pages.environment import data_uri, render

__all__ = ["detection_page", "write_detection_page"]

_CLASSES_EACH = 8  # classes shown of the head, of the middle and of the tail
_IMAGES_EACH = 4  # images shown of each
_DOTS = 1500
_SIDES = (0, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # 32 and 96 are COCO's limits
_RATIOS = {"1:4": 0.25, "1:3": 1 / 3, "1:2": 0.5, "2:3": 2 / 3, "1:1": 1, "3:2": 1.5, "2:1": 2, "3:1": 3, "4:1": 4}


def write_detection_page(path: str | Path, data: DetectionSet, statistics: DetectionStatistics | None = None) -> Path:
    """Write the page of a detection set: boxes by class, size and shape, and samples with their boxes.

    Args:
        path: the file, usually ``*.html``; needs no other and no network.
        statistics: what :func:`detection_statistics` gave; by default its defaults are asked for.

    Returns:
        ``path``.
    """
    write_text(path, detection_page(data, statistics or detection_statistics(data)))
    return Path(path)


def detection_page(data: DetectionSet, stats: DetectionStatistics) -> str:
    """The page of ``data``, whose statistics are ``stats``; at most a few megabytes."""
    used = [one for one in stats.classes if one.boxes]
    parts = head_middle_tail(len(used), _CLASSES_EACH)
    chosen = [used[k] for places in parts.values() for k in places]
    strips = iter(draw_samples(data, chosen, per_class=_IMAGES_EACH))
    heads = ["class", "boxes", "images", "small", "medium", "large", "crowds"]
    return render(
        "scaleprior.detect.data.views",
        "detection.html.jinja",
        {
            "stats": stats,
            "version": __version__,
            "source": data.source,
            "problems": [str(problem) for problem in data.problems if problem.severity != "note"],
            "charts": _charts(stats),
            "dots": _DOTS,
            "heads": heads,
            "rows": [_row(one) for one in stats.classes],
            "strips": {part: [next(strips) for _ in places] for part, places in parts.items()},
        },
        filters={"data_uri": data_uri},
    )


def _row(one: ClassCount) -> list[Any]:
    return [one.name, one.boxes, one.images, one.small, one.medium, one.large, one.crowds]


def _charts(stats: DetectionStatistics) -> dict[str, str]:
    boxes = [one.boxes for one in stats.classes if one.boxes]
    return {
        "per_image": integer_chart(("", stats.per_image), x_title="boxes", y_title="images"),
        "tail": tail_chart(boxes, boxes, what="class", counted="boxes"),
        "sizes": _side_chart(np.sqrt(stats.areas.clip(min=0))),
        "shapes": _ratio_chart(stats.box_sizes[:, 0] / stats.box_sizes[:, 1]),
        "images": size_chart(stats.image_sizes[:_DOTS].tolist()) if np.ptp(stats.image_sizes, axis=0).any() else "",
    }


def _side_chart(sides: np.ndarray) -> str:
    """Boxes by the square root of their area."""
    last = max(2, int(np.searchsorted(_SIDES, sides.max(initial=0), side="right")) + 1)
    edges = [*_SIDES, np.inf][:last]
    heights, _ = np.histogram(sides, edges)
    names = [f"{low:g}" for low, _ in pairwise(edges)]
    return bar_chart(
        names, Bars(heights.tolist()), x_title="pixels, lower end of the bin", y_title="boxes", label="boxes by size"
    )


def _ratio_chart(ratios: np.ndarray) -> str:
    """Boxes by the ratio of sides that is nearest on a logarithmic scale; the outer ones hold all beyond."""
    logs = np.log(list(_RATIOS.values()))
    limits = (logs[1:] + logs[:-1]) / 2
    heights = np.bincount(np.searchsorted(limits, np.log(ratios)), minlength=len(_RATIOS))
    return bar_chart(
        list(_RATIOS), Bars(heights.tolist()), x_title="width : height", y_title="boxes", label="boxes by shape"
    )
