"""Small configs, data and backbones for the detection tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaleprior.config import LoadedConfig, load_config

TINY = [
    *("MODEL.DEVICE", "cpu"),
    *("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.WIDTH_PER_GROUP", "4"),
    # fresh weights need norms that adapt
    *("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0"),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "16", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8"),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "32", "MODEL.RPN.PRE_NMS_TOPK_TEST", "32"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "16", "MODEL.RPN.POST_NMS_TOPK_TEST", "16"),
    *("DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.01"),
    *("SOLVER.WARMUP_ITERS", "2", "SOLVER.STEPS", "(4,)", "SOLVER.MAX_ITER", "6", "SEED", "3"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "64"),
    *("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "64"),
]
TINY_FPN = [*TINY, "MODEL.FPN.OUT_CHANNELS", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny_config(kind: str, overrides: Sequence[str] = ()) -> LoadedConfig:
    """A config of kind "C4" or "FPN" that builds and trains in a fraction of a second."""
    tiny = TINY_FPN if kind == "FPN" else TINY
    return load_config(f"COCO-Detection/Base-RCNN-{kind}.yaml", [*tiny, *overrides])


def make_coco(
    folder: Path,
    images: int = 6,
    *,
    side: int = 64,
    seed: int = 0,
    change: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Path, Path]:
    """Write a set of noise images with one or two bright squares each; returns (JSON, image folder).

    Args:
        change: edits the JSON's content before it is written.
    """
    import cv2

    generator = np.random.default_rng(seed)
    root = folder / "images"
    root.mkdir(parents=True)
    data: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "square"}, {"id": 3, "name": "block"}],
    }
    for number in range(images):
        pixels = generator.integers(0, 60, (side, side, 3), dtype=np.uint8)
        for _ in range(1 + number % 2):
            x, y = generator.integers(0, side // 2, 2).tolist()
            w, h = generator.integers(12, side // 2, 2).tolist()
            category = int(generator.choice([3, 7]))
            pixels[y : y + h, x : x + w] = (200, 40, 40) if category == 3 else (40, 40, 200)
            entry = {"id": len(data["annotations"]) + 1, "image_id": 100 + number, "category_id": category}
            data["annotations"].append({**entry, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
        name = f"{number:03d}.png"
        cv2.imwrite(str(root / name), pixels)
        data["images"].append({"id": 100 + number, "file_name": name, "height": side, "width": side})
    if change is not None:
        change(data)
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    return path, root


def write_val2014(folder: Path) -> None:
    """A val2014 of six images, ids 100 to 105, below ``folder``, laid out as COCO."""
    path, root = make_coco(folder / "source", change=lambda data: data.update(info={"year": 2014}))
    (folder / "coco" / "annotations").mkdir(parents=True)
    path.rename(folder / "coco" / "annotations" / "instances_val2014.json")
    root.rename(folder / "coco" / "val2014")


@pytest.fixture
def coco_overrides(tmp_path: Path) -> list[str]:
    """Overrides that train and evaluate on one small set."""
    path, root = make_coco(tmp_path / "data")
    return data_overrides(path, root)


def data_overrides(path: Path, root: Path) -> list[str]:
    """Overrides that train and evaluate on the set of ``path`` and ``root``."""
    return [
        *("SCALEPRIOR.DATASETS", repr([["tiny", str(path), str(root)]])),
        *("DATASETS.TRAIN", "('tiny',)", "DATASETS.TEST", "('tiny',)"),
    ]


def add_outlines(data: dict[str, Any]) -> None:
    """Give each annotation its box as a polygon; a ``change`` of :func:`make_coco`."""
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
