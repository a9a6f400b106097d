"""Data sets in the COCO format for Detectron2: any JSON with any image root, checked before anything is trained.

Reading the JSON into Detectron2's dicts is left to Detectron2's own ``load_coco_json``: boxes (XYWH_ABS), crowds and
segmentations and keypoints arrive as its models expect them.
"""

from __future__ import annotations

import io
import json as jsonlib
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote, unquote

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathHandler, PathManager

from scaleprior.backbones.zoo.cache import ZooHome
from scaleprior.d2.data.annotated import Extras, extras_of
from scaleprior.d2.evaluation.places import check_places
from scaleprior.detect.data.coco import DetectionSet, load_coco
from scaleprior.detect.data.image_root import FolderRoot, ImageRoot, open_root
from scaleprior.detect.data.minival import MINIVAL_SETS
from scaleprior.detect.data.names import dataset_paths, own_sets
from scaleprior.detect.data.problems import DropBad, Problem
from scaleprior.errors import UserError
from scaleprior.files import file_sha256, write_text
from scaleprior.wording import parameter

__all__ = [
    "TarHandler", "check_annotated", "keypoint_count", "problems_of", "register_coco", "register_datasets",
]  # fmt: skip

logger = logging.getLogger(__name__)


_COCO_KEYPOINTS = 17  # whose sigmas COCO's evaluation has by itself


class _Registered(NamedTuple):
    """What register_coco made; paths are absolute."""

    json: str
    root: str
    drop_bad: DropBad
    problems: tuple[Problem, ...]
    extras: Extras


_registered: dict[str, _Registered] = {}


class TarHandler(PathHandler):
    """Opens ``scaleprior-tar://ROOT!/MEMBER`` for Detectron2; ROOT is a quoted tar, or glob of tars. Read only.

    Tars are listed once per process and read by ``pread``, so forked loader workers share what was opened before them.
    """

    PREFIX = "scaleprior-tar://"

    def __init__(self) -> None:
        super().__init__()
        self._roots: dict[str, ImageRoot] = {}

    def folder(self, root: str, opened: ImageRoot) -> str:
        """What to join member names to, for the tars ``opened`` from the absolute path or glob ``root``."""
        self._roots[root] = opened
        return f"{self.PREFIX}{quote(root)}!"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _split(self, path: str) -> tuple[ImageRoot, str]:
        quoted, _, member = path[len(self.PREFIX) :].partition("!/")
        root = unquote(quoted)
        if root not in self._roots:
            self._roots[root] = open_root(root)
        return self._roots[root], member

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        self._check_kwargs(kwargs)
        if mode != "rb":
            raise UserError(f"{path} is opened with mode {mode!r}", hint="images in tars are read only, mode 'rb'")
        root, member = self._split(path)
        return io.BytesIO(root.read(member))


_TARS = TarHandler()
PathManager.register_handler(_TARS, allow_override=True)


class _TarPath(str):
    """A path whose unpickling imports this module, which registers the handler.

    Loader workers that are not forked (``spawn``, ``forkserver``) start without anything that this process registered.
    """

    __slots__ = ()


def register_coco(name: str, json: str | Path, root: str | Path, *, drop_bad: DropBad = "none") -> None:
    """Check a COCO-format set and register it with Detectron2 under ``name``; the same set twice is harmless.

    Metadata (``thing_classes``, ``thing_dataset_id_to_contiguous_id``, ``evaluator_type`` "coco", ``json_file``,
    ``image_root``) is there at once, and for keypoints ``keypoint_names`` and ``keypoint_flip_map``, whose pairs are
    told by "left" and "right" in the names. Where annotations lack ``iscrowd``, ``area`` or an ``id`` of their own that
    is not 0, which COCO's evaluation needs, or some are left out, ``json_file`` is a completed copy under
    ``$SCALEPRIOR_HOME/coco/``, named after the content.

    Args:
        json: a COCO instances file; what annotations say beside boxes is passed through.
        root: the images: a folder, an uncompressed tar, or a glob of tars (``data/train-*.tar``).
        drop_bad: leave out "annotations" that cannot be used, or the "images" that have such, instead of refusing the
            set.

    Raises:
        UserError: the set is broken (see ``detect.load_coco``), or the name is taken by another set.
    """
    _register(name, str(json), str(root), drop_bad)


def register_datasets(cfg: CfgNode) -> None:
    """Register ``SCALEPRIOR.DATASETS`` and what ``DATASETS.TRAIN`` and ``TEST`` name, and check that it is all there.

    Sets that Detectron2 or the user's code registered stay as they are.

    Args:
        cfg: Detectron2's, with ``add_scaleprior_config``.

    Raises:
        UserError: a name that nobody knows, missing files (names DETECTRON2_DATASETS for Detectron2's own), a broken
            set; SCALEPRIOR.DROP_BAD for a set that others registered.
    """
    own, drop_bad = own_sets(cfg), cfg.SCALEPRIOR.DROP_BAD
    for name, (json, root) in own.items():
        register_coco(name, json, root, drop_bad=drop_bad)
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        if name in MINIVAL_SETS:
            _register(name, *dataset_paths(name, cfg), drop_bad, drop_empty_boxes=True)
        elif name not in DatasetCatalog:
            dataset_paths(name, cfg)  # knows no other name either, and says which it does
        elif name not in _registered:
            check_places(name, evaluated=False)
        if drop_bad != "none" and (name not in _registered or _registered[name].drop_bad != drop_bad):
            raise UserError(
                f"SCALEPRIOR.DROP_BAD is {drop_bad!r}, but data set {name} was registered without it",
                hint="leave the key out, or name the files in SCALEPRIOR.DATASETS under another name",
            )


def check_annotated(cfg: CfgNode, *, training: bool) -> None:
    """Refuse sets whose annotations lack what the model is trained on or evaluated by: masks, keypoints.

    Sets that others registered are asked for what their metadata say alone.

    Args:
        training: the sets of ``DATASETS.TRAIN`` count, too.

    Raises:
        UserError: names the set, what it lacks, and the key that asks for it.
    """
    trained_on = list(cfg.DATASETS.TRAIN) if training else []
    for name in dict.fromkeys([*trained_on, *cfg.DATASETS.TEST]):
        faults = _registered[name].extras.faults if name in _registered else {}
        for part, key in (("masks", "MODEL.MASK_ON"), ("keypoints", "MODEL.KEYPOINT_ON")):
            if cfg.MODEL[key.removeprefix("MODEL.")] and part in faults:
                raise UserError(
                    f"{key} is True, and data set {name} {faults[part]}", hint=f"repair the file, or use {key} False"
                )
    if cfg.MODEL.KEYPOINT_ON:
        _check_keypoints(cfg, trained_on)


def _check_keypoints(cfg: CfgNode, trained_on: Iterable[str]) -> None:
    count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    for name in trained_on:
        names = MetadataCatalog.get(name).get("keypoint_names")
        if names is None:
            raise UserError(
                f"MODEL.KEYPOINT_ON is True, and the metadata of data set {name} name no keypoints",
                hint=f"MetadataCatalog.get({name!r}).set(keypoint_names=[...], keypoint_flip_map=[(LEFT, RIGHT), ...])",
            )
        if len(names) != count:
            raise UserError(
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {count}, and data set {name} has {len(names)}",
                hint=f"use MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {len(names)}",
            )
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or _COCO_KEYPOINTS
    evaluated = [name for name in cfg.DATASETS.TEST if MetadataCatalog.get(name).get("evaluator_type") == "coco"]
    if evaluated and sigmas != count:
        raise UserError(
            f"TEST.KEYPOINT_OKS_SIGMAS are those of {sigmas} keypoints, and the model has {count}",
            hint=f"give {count}, one for each keypoint: COCO's own are 0.025 (eyes) to 0.107 (hips)",
        )


def keypoint_count(name: str) -> int | None:
    """Keypoints of an object of a registered set; None where it has none."""
    names = MetadataCatalog.get(name).get("keypoint_names")
    return None if names is None else len(names)


def problems_of(names: Iterable[str]) -> dict[str, tuple[Problem, ...]]:
    """What was left out of sets, and what is odd about them, by name; () where others registered the set."""
    return {name: _registered[name].problems if name in _registered else () for name in names}


def _register(name: str, json: str, root: str, drop_bad: DropBad, *, drop_empty_boxes: bool = False) -> None:
    if not name:
        raise UserError("a data set needs a name", hint="give one that DATASETS.TRAIN or TEST can refer to")
    files = (_absolute(json), _absolute(root), drop_bad)
    if name in _registered and name in DatasetCatalog:
        before = _registered[name][:3]
        if before != files:
            said, now = (
                " with ".join(part[:2]) + f" ({parameter('drop_bad', part[2])})" * (before[2] != drop_bad)
                for part in (before, files)
            )
            raise UserError(
                f"data set {name} is registered already, as {said}; now it would be {now}", hint="take another name"
            )
        return
    if name in DatasetCatalog:
        raise UserError(f"data set {name} is registered already, not by ScalePrior", hint="take another name")
    data = load_coco(files[0], files[1], name=name, drop_empty_boxes=drop_empty_boxes, keep_all=True, drop_bad=drop_bad)
    extras = extras_of(data.truth)
    json_file = files[0] if data.complete and not extras.filled else str(_completed(data, drop_bad))
    # Detectron2 joins names to a folder by itself, which finds neither tars nor names spelled otherwise than the files'
    in_tars = not isinstance(data.root, FolderRoot) or data.root.respelled
    image_root = _TARS.folder(files[1], data.root) if in_tars else files[1]
    _set_metadata(
        name,
        {
            "json_file": json_file,
            "image_root": image_root,
            "evaluator_type": "coco",
            "thing_classes": list(data.class_names),
            "thing_dataset_id_to_contiguous_id": {category: i for i, category in enumerate(data.category_ids)},
        },
    )
    if extras.keypoint_names and MetadataCatalog.get(name).get("keypoint_names") is None:  # unless the user said them
        _set_metadata(
            name, {"keypoint_names": list(extras.keypoint_names), "keypoint_flip_map": list(extras.keypoint_pairs)}
        )

    def records() -> list[dict[str, Any]]:
        loaded = load_coco_json(json_file, image_root, name)
        if in_tars:
            for record in loaded:
                record["file_name"] = _TarPath(record["file_name"])
        return loaded

    DatasetCatalog.register(name, records)
    _registered[name] = _Registered(*files, data.problems, extras)
    logger.info("registered %s: %d images, %d classes, %s", name, len(data), len(data.class_names), json_file)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(os.path.expandvars(path)))


def _set_metadata(name: str, values: Mapping[str, Any]) -> None:
    """Set all or nothing: Detectron2 refuses, by a bare assertion, to change a value."""
    metadata = MetadataCatalog.get(name)
    differing = [key for key, value in values.items() if metadata.get(key, value) != value]
    if differing:
        raise UserError(
            f"Detectron2 has other metadata for a data set {name} ({', '.join(differing)})",
            hint="take another name, or remove it with MetadataCatalog.remove",
        )
    metadata.set(**values)


def _completed(data: DetectionSet, drop_bad: DropBad) -> Path:
    """The annotations with everything filled in, as a file in the cache."""
    # 2: an earlier version's completed.json kept annotation ids, 0 among them. 3: it left keypoints out
    name = "completed_3.json" if drop_bad == "none" else f"completed_3_without_bad_{drop_bad}.json"
    target = ZooHome.current().root / "coco" / file_sha256(data.source) / name
    if not target.is_file():
        write_text(target, jsonlib.dumps({"info": {}, "licenses": [], **data.truth}))
    return target
