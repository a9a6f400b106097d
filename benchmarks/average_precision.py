"""Average precision of all labels at once against one label at a time in NumPy, which is its definition.

    python benchmarks/average_precision.py                  # on the CPU: 15 seconds on one core
    python benchmarks/average_precision.py --device cuda    # scores and pairs on a GPU: as long, for the peer's sake

Peer: ``scaleprior.pretrain.average_precision`` of each label that some of the images have and some have not. 1,000
images, 18,291 labels (JFT-300M's), of which label k is present in min(1, 3 / k^0.7) of the images: 178 an image. Both
begin with scores and with pairs of image and label, in float32. The two take turns; the median over rounds of
peer / ours is at least 2, and the largest difference at most 1e-12.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RATIO, DIFFERENCE = 2.0, 1e-12


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--images", type=int, default=1000, help="(default 1,000)")
    parser.add_argument("--labels", type=int, default=18_291, help="(default 18,291)")
    parser.add_argument("--rounds", type=int, default=3, help="of each, taking turns (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default 1)")
    args = parser.parse_args()
    import numpy as np
    import torch

    from scaleprior.pretrain import average_precision
    from scaleprior.pretrain.evaluation.average_precision import Pairs, average_precisions

    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(args.images, args.labels)).astype(np.float32)
    present = rng.random(scores.shape) < np.minimum(1, 3 / np.arange(1, args.labels + 1) ** 0.7)
    rows, labels = (torch.from_numpy(each).to(args.device) for each in np.nonzero(present))
    table = torch.from_numpy(scores).to(args.device)
    judged = np.flatnonzero(present.any(axis=0) & ~present.all(axis=0))

    def peer() -> np.ndarray:
        return np.array([average_precision(scores[:, label], present[:, label]) for label in judged])

    def ours() -> np.ndarray:
        pairs = Pairs.of(rows, labels, images=args.images, classes=args.labels)
        return average_precisions(table, pairs).cpu().numpy()[judged]

    ours()  # a GPU's first call loads its kernels
    ratios, seconds, difference = [], [], 0.0
    for _ in range(args.rounds):
        begun = time.perf_counter()
        wanted = peer()
        between = time.perf_counter()
        found = ours()
        ended = time.perf_counter()
        ratios.append((between - begun) / (ended - between))
        seconds.append(ended - between)
        difference = max(difference, float(np.abs(found - wanted).max()))
    figures = {
        "device": args.device,
        "labels_judged": len(judged),
        "pairs": len(rows),
        "peer_over_ours": round(statistics.median(ratios), 2),
        "seconds": round(statistics.median(seconds), 3),
        "largest_difference": difference,
    }
    for name, value in figures.items():
        print(f"{name:20}{value}")
    print(json.dumps(figures))
    return int(figures["peer_over_ours"] < RATIO or difference > DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main())
