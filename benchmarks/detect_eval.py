"""A whole evaluation, from files to AP: the torchvision engine against Detectron2, images a second and where time goes.

    python benchmarks/detect_eval.py                          # on a GPU a minute; on a CPU half of one, narrow
    python benchmarks/detect_eval.py --kind C4 --images 400 --size 256 --workers 4

Peer, in the same process, after ours: Detectron2's ``inference_on_dataset`` with its own loader, model and COCO
evaluator, and the same weights under its own names. Images are JPEGs of noise, sides 3 to 4, with seven boxes each;
the threshold of scores is where 300 candidates of an image are above it, so that suppression and AP have work
as of a trained detector. Both engines decode in as many workers: threads here, processes there.

Times are of a whole pass after a few images; on a CPU of the process' own time with one thread and without workers, for
others use the machine, too. Target: not slower than Detectron2.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.detect_pair import Pair

if TYPE_CHECKING:
    from scaleprior.detect import DetectionSet

CANDIDATES = 300  # of an image, above the threshold of scores
CLASSES, BOXES = 80, 7


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=("FPN", "C4"), default="FPN")
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--images", type=int, help="of the set (default 400 on a GPU, 24 on a CPU)")
    parser.add_argument("--size", type=int, help="shorter side in pixels (default 256 on a GPU, 160 on a CPU)")
    parser.add_argument("--workers", type=int, help="that decode (default 4 on a GPU, 0 on a CPU)")
    args = parser.parse_args()
    import torch

    gpu = torch.cuda.is_available()
    torch.set_num_threads(4 if gpu else 1)
    images, size, workers = args.images or (400 if gpu else 24), args.size or (256 if gpu else 160), args.workers
    workers = (4 if gpu else 0) if workers is None else workers
    with tempfile.TemporaryDirectory() as folder:
        row = measure(args.kind, args.depth, Path(folder), images=images, size=size, workers=workers, narrow=not gpu)
    print("| engine | images a second | AP's share of the time |\n| --- | --- | --- |")
    for name in ("torchvision", "detectron2"):
        print(f"| {name} | {row[f'{name}_images_per_second']:.1f} | {row[f'{name}_ap_share']:.1%} |")
    print(f"ratio {row['ratio']:.2f}, {row['detections']} and {row['detectron2_detections']} detections")
    head = {"kind": args.kind, "depth": args.depth, "images": images, "size": size, "workers": workers, "gpu": gpu}
    print(json.dumps({**head, **row, "met": row["ratio"] >= 1.0}))
    return 0


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let a logger say errors only, and what it said before afterwards: whoever calls from a test goes on."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@_quiet("detectron2")
def measure(
    kind: str, depth: int, folder: Path, *, images: int, size: int, workers: int, narrow: bool
) -> dict[str, Any]:
    """Images a second of each engine, AP's share of its time, and the ratio of the times, Detectron2's by ours."""
    import torch
    from detectron2.data import build_detection_test_loader
    from detectron2.data.datasets import register_coco_instances
    from detectron2.evaluation import COCOEvaluator, inference_on_dataset

    from scaleprior.detect import load_coco
    from scaleprior.detect.faster_rcnn import evaluating
    from scaleprior.training.processes import ProcessGroup

    pair = Pair(kind, depth, narrow=narrow)
    write_set(folder, images, size)
    name = f"detect_eval_{folder.name}"
    register_coco_instances(name, {}, str(folder / "truth.json"), str(folder))
    data = load_coco(folder / "truth.json", folder, name=name)
    words = ["INPUT.MIN_SIZE_TEST", size, "INPUT.MAX_SIZE_TEST", 2 * size, "DATALOADER.NUM_WORKERS", workers]
    cfg = _with(pair.cfg, words)
    level_scores(pair, data, size)
    alone = ProcessGroup(0, 1, pair.device)

    def ours(part: DetectionSet) -> int:
        return evaluating.evaluate_set(cfg, pair.ours, part, folder / "ours", alone).detections or 0

    def peers(warm: int = 0) -> int:
        from scaleprior.d2.plan import default_config

        peer_cfg = _with(default_config(), [*words, "MODEL.DEVICE", pair.device.type])
        make_loader: Any = build_detection_test_loader
        assert pair.peer is not None
        if warm:
            with torch.no_grad():
                for batch in itertools.islice(make_loader(peer_cfg, name), warm):
                    pair.peer.eval()(batch)
            return 0
        evaluator = COCOEvaluator(name, output_dir=str(folder / "theirs"))
        inference_on_dataset(pair.peer, make_loader(peer_cfg, name), evaluator)
        return len(json.loads((folder / "theirs" / "coco_instances_results.json").read_text()))

    peers(warm=8)
    ours(data)
    found: dict[str, Any] = {}
    seconds = {}
    for engine, work, ap in (
        ("torchvision", lambda: ours(data), (evaluating, "coco_ap")),
        ("detectron2", peers, (COCOEvaluator, "evaluate")),
    ):
        with contextlib.redirect_stdout(io.StringIO()), _timed(pair, *ap) as of_ap:
            start = pair._now()
            count = work()
            seconds[engine] = pair._now() - start
        found |= {
            f"{engine}_images_per_second": images / seconds[engine],
            f"{engine}_ap_share": sum(of_ap) / seconds[engine],
            "detections" if engine == "torchvision" else "detectron2_detections": count,
        }
    return {**found, "ratio": seconds["detectron2"] / seconds["torchvision"]}


def write_set(folder: Path, images: int, size: int) -> None:
    """JPEGs of ``size`` x 4/3 ``size`` pixels, and ``truth.json``."""
    import cv2
    import numpy as np

    generator = np.random.default_rng(0)
    height, width = size, size * 4 // 3
    truth: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": height, "width": width} for i in range(1, images + 1)],
        "annotations": [],
        "categories": [{"id": number, "name": f"c{number}"} for number in range(1, CLASSES + 1)],
    }
    for image in truth["images"]:
        coarse = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / image["file_name"]), cv2.resize(coarse, (width, height)))
        for _ in range(BOXES):
            w, h = (generator.uniform(0.1, 0.5, 2) * size).tolist()
            box = [float(generator.uniform(0, width - w)), float(generator.uniform(0, height - h)), w, h]
            entry = {"id": len(truth["annotations"]) + 1, "image_id": image["id"], "iscrowd": 0, "area": w * h}
            truth["annotations"].append({**entry, "category_id": int(generator.integers(1, CLASSES + 1)), "bbox": box})
    (folder / "truth.json").write_text(json.dumps(truth))


def level_scores(pair: Pair, data: DetectionSet, size: int) -> None:
    """Set both detectors' threshold to where :data:`CANDIDATES` of the first image are above it."""
    import torch

    from scaleprior.detect.data.store.images import ImageStore
    from scaleprior.detect.data.transforms import pad_images

    image = ImageStore(data, order="BGR", cache_bytes=0).load(0, size, 2 * size, keep=False)
    found: list[torch.Tensor] = []
    heads = pair.ours.roi_heads
    handle = heads.box_predictor.register_forward_hook(lambda module, given, said: found.append(said[0]))
    pair.ours.eval()
    pair.ours(*pad_images([image]))
    handle.remove()
    scores = found[0].softmax(dim=1)[:, :-1].flatten()
    threshold = float(scores.topk(min(CANDIDATES, len(scores))).values[-1])
    heads.settings = replace(heads.settings, score_thresh=threshold)
    assert pair.peer is not None
    pair.peer.roi_heads.box_predictor.test_score_thresh = threshold


def _with(cfg: Any, words: list[Any]) -> Any:
    changed = cfg.clone()
    changed.defrost()
    changed.merge_from_list(words)
    return changed


@contextlib.contextmanager
def _timed(pair: Pair, place: Any, name: str) -> Iterator[list[float]]:
    """Seconds of each call of ``place.name`` within the block."""
    seconds: list[float] = []
    plain: Callable[..., Any] = getattr(place, name)

    def timed(*given: Any, **further: Any) -> Any:
        start = time.process_time() if pair.device.type == "cpu" else time.perf_counter()
        try:
            return plain(*given, **further)
        finally:
            now = time.process_time() if pair.device.type == "cpu" else time.perf_counter()
            seconds.append(now - start)

    setattr(place, name, timed)
    try:
        yield seconds
    finally:
        setattr(place, name, plain)


if __name__ == "__main__":
    sys.exit(main())
