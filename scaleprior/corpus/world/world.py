"""The synthetic world: a corpus and a detection set whose images show the same procedural objects.

An image is a function of (spec, seed, split, number) and its size; nothing else, so any part of the world can be made
anywhere and in any order. Labels: one leaf (a shape with a texture) and one colour scheme per object.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scaleprior.corpus.hashing import hash64
from scaleprior.corpus.index import ImageRow, write_index
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.shards import ShardWriter
from scaleprior.corpus.staging import staged_folder
from scaleprior.corpus.world.render import Draws, Placed, Renderer
from scaleprior.corpus.world.spec import WorldSpec
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn

__all__ = ["World", "contact_sheet"]

_QUALITY = 92  # of the JPEGs written
_CORPUS_SPLIT = "corpus"


class World:
    """A synthetic world.

    Args:
        spec: its knobs.
        seed: another seed is another sample of images of the same kind.
    """

    def __init__(self, spec: WorldSpec | None = None, seed: int = 0) -> None:
        self.spec: WorldSpec = spec or WorldSpec()
        self.seed = seed

    def __repr__(self) -> str:
        return f"World({self.spec}, seed={self.seed})"

    @cached_property
    def label_space(self) -> LabelSpace:
        """Families, shapes, textures, colour schemes, and the leaves: pairs of shape and texture."""
        return self.spec.label_space()

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self.spec, self.seed)

    @cached_property
    def categories(self) -> list[str]:
        """Label ids of the detection categories; a category's COCO id is its place here plus 1."""
        if self.spec.detection_classes == "leaf":
            return [f"{shape}/{texture}" for shape in self.spec.shapes for texture in self.spec.textures]
        names = self.spec.shapes if self.spec.detection_classes == "shape" else self.spec.textures
        return [f"{self.spec.detection_classes}:{name}" for name in names]

    def render(self, split: str, number: int, size: int) -> tuple[np.ndarray, list[str]]:
        """One corpus-like image: one or two large objects.

        Args:
            split: a name; other names give other images.
            number: which image, from 0.
            size: pixels a side, at least 16.

        Returns:
            uint8 [size, size, 3] RGB, and the sorted ids of its labels.
        """
        image, objects = self._draw(split, number, size, detection=False)
        return image, sorted({label for placed, _ in objects for label in self._labels(placed)})

    def scene(
        self, split: str, number: int, canvas: int, *, masks: bool = False
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """One detection image: several objects, partly covering each other.

        Args:
            masks: the polygons, too.

        Returns:
            uint8 [canvas, canvas, 3] RGB, and for each object ``category_id``, ``bbox`` [x, y, width, height] around
            its visible pixels, ``area``, their number, and with ``masks`` ``segmentation``, polygons around them (what
            is seen through an object's hole counts as its own there).
        """
        image, objects = self._draw(split, number, canvas, detection=True)
        found = []
        for placed, mask in objects:
            columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            x, y = int(columns[0]), int(rows[0])
            box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
            found.append({"category_id": self._category(placed), "bbox": box, "area": int(np.count_nonzero(mask))})
            if masks:
                found[-1]["segmentation"] = _outlines(mask)
        return image, found

    def write_corpus(
        self,
        folder: str | Path,
        images: int,
        *,
        image_size: int,
        overwrite: bool = False,
        progress: ProgressFn | None = None,
    ) -> Path:
        """Write images 0 to ``images - 1`` as shards in hash order with their index; ``Corpus.open`` opens the folder.

        Args:
            folder: made complete or not at all.
            images: how many.
            image_size: pixels a side.
            overwrite: replace an existing index.

        Raises:
            UserError: fewer than one image, or the folder exists.
            FailureError: disk full.
        """
        if images < 1:
            raise UserError(f"a world corpus of {images} images", hint="ask for at least 1")
        folder = Path(folder)
        source = {"kind": "world", "seed": self.seed, "image_size": image_size, "world": self.spec.to_dict()}
        with staged_folder(folder, marker="corpus.json", overwrite=overwrite) as temporary:
            write_index(
                self._write_shards(temporary, images, image_size),
                temporary,
                label_space=self.label_space,
                root=".",
                name=folder.name,
                source=source,
                verify=False,
                total=images,
                progress=progress,
            )
        return folder

    def write_detection(
        self,
        folder: str | Path,
        *,
        split: str,
        images: int,
        canvas: int,
        masks: bool = False,
        overwrite: bool = False,
        progress: ProgressFn | None = None,
    ) -> tuple[Path, Path]:
        """Write a COCO-format detection set to ``folder/split``, complete or not at all.

        Args:
            folder: holds one folder for each split.
            split: for example "train" or "val".
            images: how many scenes.
            canvas: pixels a side.
            masks: objects have polygons; else their ``segmentation`` is an empty list.
            overwrite: replace this split.

        Returns:
            Path of ``instances.json`` and of the folder of JPEGs it refers to.
        """
        if images < 1:
            raise UserError(f"a world detection set of {images} images", hint="ask for at least 1")
        out = Path(folder) / split
        with staged_folder(out, marker="instances.json", overwrite=overwrite) as temporary:
            (temporary / "images").mkdir()
            entries: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for number in range(images):
                image, objects = self.scene(f"detection/{split}", number, canvas, masks=masks)
                name = f"{number + 1:06d}.jpg"
                (temporary / "images" / name).write_bytes(_encode(image))
                entries.append({"id": number + 1, "file_name": name, "width": canvas, "height": canvas})
                for found in objects:
                    fixed = {"id": len(annotations) + 1, "image_id": number + 1, "iscrowd": 0, "segmentation": []}
                    annotations.append({**fixed, **found})
                if progress is not None:
                    progress(number + 1, images, {"objects": len(annotations)})
            document = {
                "info": {"description": "ScalePrior synthetic world", "seed": self.seed, "world": self.spec.to_dict()},
                "licenses": [],
                "images": entries,
                "annotations": annotations,
                "categories": [self._coco_category(k, label) for k, label in enumerate(self.categories)],
            }
            (temporary / "instances.json").write_text(json.dumps(document), encoding="utf-8")
        return out / "instances.json", out / "images"

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the spec and the seed."""
        return hashlib.sha256(json.dumps([self.spec.to_dict(), self.seed], sort_keys=True).encode()).hexdigest()

    def _draw(self, split: str, number: int, size: int, *, detection: bool) -> Any:
        if size < 16:
            raise UserError(f"world image size {size}", hint="use at least 16 pixels")
        return self._renderer.draw(Draws(self.seed, split, number), size, detection=detection)

    def _labels(self, placed: Placed) -> list[str]:
        labels = [self.spec.leaf(placed.shape, placed.texture)]
        if placed.scheme >= 0:
            labels.append(f"scheme:{self.spec.schemes[placed.scheme]}")
        return labels

    def _category(self, placed: Placed) -> int:
        kind = self.spec.detection_classes
        if kind == "leaf":
            return placed.shape * len(self.spec.textures) + placed.texture + 1
        return (placed.shape if kind == "shape" else placed.texture) + 1

    def _coco_category(self, place: int, label: str) -> dict[str, Any]:
        node = self.label_space.index(label)
        above = self.label_space.ids[self.label_space.parents[node][0]]
        return {"id": place + 1, "name": self.label_space.names[node], "supercategory": above, "label": label}

    def _write_shards(self, folder: Path, images: int, size: int) -> Iterator[ImageRow]:
        keys = [f"{number:09d}" for number in range(images)]
        order = np.argsort(hash64(key + ".jpg" for key in keys), kind="stable")
        with ShardWriter(folder / "shards") as writer:
            for number in order.tolist():
                image, labels = self.render(_CORPUS_SPLIT, number, size)
                data = _encode(image)
                shard, (name, offset, length) = writer.write(keys[number], data, {"labels": labels})
                place = (f"shards/{shard}", name, offset, length)
                yield ImageRow(name, tuple(labels), *place, checksum=zlib.crc32(data))


def contact_sheet(images: list[np.ndarray], *, columns: int, gap: int = 4, background: int = 255) -> np.ndarray:
    """Images of one size in a grid, row by row: uint8 [H, W, 3]."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), background, dtype=np.uint8)
    for k, image in enumerate(images):
        top, left = gap + (k // columns) * (height + gap), gap + (k % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _outlines(mask: np.ndarray) -> list[list[float]]:
    """Polygons [x1, y1, x2, y2, ...] along the outer edges of the pixels in ``mask``, bool [H, W]."""
    import cv2

    # contours go through the centres of the outermost pixels, so at four times the size an eighth of a pixel inside
    enlarged = np.kron(mask, np.ones((4, 4), dtype=np.uint8))
    contours, _ = cv2.findContours(enlarged, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour.reshape(-1) + 0.5) / 4).tolist() for contour in contours]


def _encode(image: np.ndarray) -> bytes:
    import simplejpeg

    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=_QUALITY, colorspace="RGB", colorsubsampling="444"
    )
