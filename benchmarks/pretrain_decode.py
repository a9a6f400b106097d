"""Decoding for pretraining: the GPU's decoder against the cores of the machine.

    python benchmarks/pretrain_decode.py [--workers 16] [--batch 256] [--seconds 3]

Peer: the loader processes of the CPU (``LOADER.DECODE cpu``: libjpeg-turbo, OpenCV). Both make the same batches of
uint8 crops from the same JPEGs, by ``PRETRAIN.INPUT.CROP random_resized_crop``, of two kinds: 64 x 64 pixels into crops
of 64, and about 500 x 375 into crops of 224, as in ImageNet. They are drawn here (smooth shapes with some noise,
quality 90, 4:2:0), so no data is needed; the operating system's cache holds them, so no disk is measured.

Figures, images a second: ``cpu`` with all processes, ``cpu_one`` in this one; ``reading_one``: one process that reads
and looks at headers only, which is what a loader process does for the GPU; ``gpu``: its decoder with batches at hand;
``gpu_and_reading``: with all processes reading for it. Without a GPU its figures are null. Each is over a whole number
of batches after one that is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import simplejpeg
import torch

from scaleprior.corpus import build_index, open_source
from scaleprior.pretrain.data.augment import CropAugmentation
from scaleprior.pretrain.data.batches import ImageSet, TrainBatches, batches
from scaleprior.pretrain.data.decoding import DeviceDecoder, decoded_batches
from scaleprior.pretrain.data.encoded import EncodedBatches
from scaleprior.training.positions import BatchPlan

KINDS = {"64 px": ((64, 64), 64), "500x375 px": ((375, 500), 224)}  # height and width, side of the crops
_IMAGES = 256
_STEPS = 1_000_000  # more than anybody waits for


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Decoding for pretraining: the GPU's decoder against the machine's cores."
    )
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 16), help="processes of the CPU's rows")
    parser.add_argument("--batch", type=int, default=256, help="images a batch (default 256)")
    parser.add_argument("--seconds", type=float, default=3.0, help="least time of a row (default 3)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    gpu = torch.device("cuda", 0) if torch.cuda.is_available() else None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, (shape, size) in KINDS.items():
            dataset = drawn(Path(folder) / kind.replace(" ", "_"), shape, size, args.batch)
            rates = measure(dataset, args.workers, args.seconds, gpu)
            rows.append({"jpegs": kind, "crop": size, **rates})
            print("  ".join([f"{kind:>10}", *(f"{name} {shown(rate)}" for name, rate in rates.items())]))
    card = None if gpu is None else torch.cuda.get_device_name(gpu)
    facts = {"workers": args.workers, "cores": os.cpu_count(), "batch": args.batch, "gpu": card}
    print(json.dumps({"benchmark": "pretrain_decode", "unit": "images/s", **facts, "rows": rows}))
    return 0


def shown(rate: float | None) -> str:
    """Images a second, for people."""
    return "unmeasured" if rate is None else f"{rate:,.0f}/s"


def drawn(folder: Path, shape: tuple[int, int], size: int, batch: int) -> TrainBatches:
    """An index of JPEGs that look like nothing in particular, and its batches."""
    rng = np.random.default_rng(0)
    images = folder / "images" / "all"
    images.mkdir(parents=True)
    for number in range(_IMAGES):
        coarse = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
        pixels = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        (images / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, quality=90, colorsubsampling="420"))
    source = open_source(folder / "images")
    facts = {"label_space": source.label_space, "root": source.root, "source": {"kind": source.kind}}
    fraction = build_index(source.rows(), folder / "index", name="drawn", verify=False, **facts).fraction(
        images=_IMAGES
    )
    augmentation = CropAugmentation("random_resized_crop", size, size)
    return TrainBatches(ImageSet(fraction, *fraction.labels()), BatchPlan(_IMAGES, batch, 0), augmentation, order="RGB")


def measure(dataset: TrainBatches, workers: int, seconds: float, gpu: torch.device | None) -> dict[str, float | None]:
    """Images a second of every row."""
    encoded = EncodedBatches(dataset)
    found: dict[str, float | None] = {
        "cpu": rate(batches(dataset, 0, _STEPS, workers=workers), seconds),
        "cpu_one": rate(batches(dataset, 0, _STEPS, workers=0), seconds),
        "reading_one": rate(batches(encoded, 0, _STEPS, workers=0), seconds),
        "gpu": None,
        "gpu_and_reading": None,
    }
    if gpu is not None:
        decoder, ready = DeviceDecoder(encoded, gpu), [encoded[step] for step in range(4)]
        found["gpu"] = rate((decoder(ready[step % 4]) for step in range(_STEPS)), seconds, gpu)
        source = decoded_batches(dataset, 0, _STEPS, workers=workers, device=gpu)
        found["gpu_and_reading"] = rate(source, seconds, gpu)
    return found


def rate(source: Iterator[Any], seconds: float, gpu: torch.device | None = None) -> float:
    """Images a second over at least ``seconds``, after one batch, and with a GPU's work done."""
    next(source)
    done, images, begun = now(gpu), 0, time.perf_counter()
    while done - begun < seconds:
        images += len(next(source).rows)
        done = now(gpu)
    return images / (done - begun)


def now(gpu: torch.device | None) -> float:
    """Now, when the GPU has done what it was given."""
    if gpu is not None:
        torch.cuda.synchronize(gpu)
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
