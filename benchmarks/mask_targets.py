"""Targets of a mask head from polygons: all boxes of a step at once against Detectron2's loop over them.

    python benchmarks/mask_targets.py                                    # random outlines: 5 seconds on one core
    python benchmarks/mask_targets.py --annotations instances.json       # a COCO file's own polygons

Peer: ``PolygonMasks.crop_and_resize`` of Detectron2, which has to be installed. Boxes are those around the objects,
with each side moved by a few pixels, as proposals are. The two take turns, on one core, whose time is counted;
the median over rounds of peer / ours is at least 3, and no pixel differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RATIO = 3.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--annotations", type=Path, help="COCO instances file (default: random outlines)")
    parser.add_argument("--boxes", type=int, default=512, help="of a step (default 512)")
    parser.add_argument("--side", type=int, default=28, help="of a target, in pixels (default 28)")
    parser.add_argument("--rounds", type=int, default=7, help="of each, taking turns (default 7)")
    args = parser.parse_args(argv)
    import torch
    from detectron2.structures import PolygonMasks

    from scaleprior.detect.data.masks import mask_targets
    from scaleprior.detect.data.segmentation import Polygons

    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    known = _outlines(generator) if args.annotations is None else _polygons_of(args.annotations)
    chosen = [known[i] for i in generator.integers(0, len(known), args.boxes)]
    extents = [np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in each]) for each in chosen]
    corners = np.array([[*points.min(axis=0), *points.max(axis=0)] for points in extents])
    boxes = torch.tensor(corners + generator.normal(scale=5, size=corners.shape), dtype=torch.float32)
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    theirs = PolygonMasks([[np.array(polygon) for polygon in each] for each in chosen])
    ours = [Polygons.of(each) for each in chosen]

    ratios, seconds, differing = [], [], 0
    for _ in range(args.rounds):
        begun = time.process_time()
        wanted = theirs.crop_and_resize(boxes, args.side)
        between = time.process_time()
        found = mask_targets(ours, boxes, args.side)
        ended = time.process_time()
        ratios.append((between - begun) / (ended - between))
        seconds.append(ended - between)
        differing += int((found != wanted).sum())
    figures = {
        "boxes": args.boxes,
        "polygons": sum(len(each.counts) for each in ours),
        "points": sum(len(each.points) for each in ours),
        "peer_over_ours": round(statistics.median(ratios), 2),
        "ms": round(statistics.median(seconds) * 1e3, 2),
        "pixels_that_differ": differing,
    }
    for name, value in figures.items():
        print(f"{name:20}{value}")
    met = figures["peer_over_ours"] >= RATIO and not differing
    print(json.dumps({**figures, "met": met}))
    return 0 if met else 1


def _outlines(generator: np.random.Generator) -> list[list[list[float]]]:
    """400 stars of 8 to 40 points in 640 x 480 pixels."""
    found = []
    for _ in range(400):
        angles = np.sort(generator.random(generator.integers(8, 41))) * 2 * np.pi
        radii = generator.uniform(0.5, 1, len(angles)) * np.exp(generator.uniform(2, 5))
        x, y = generator.random(2) * [640, 480]
        found.append([np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1).reshape(-1).tolist()])
    return found


def _polygons_of(path: Path) -> list[list[list[float]]]:
    from scaleprior.detect.data.coco import load_truth

    truth, _ = load_truth(path)
    masks = [each.get("segmentation") for each in truth["annotations"] if not each["iscrowd"]]
    return [[p for p in mask if len(p) >= 6 and len(p) % 2 == 0] for mask in masks if mask and isinstance(mask, list)]


if __name__ == "__main__":
    raise SystemExit(main())
