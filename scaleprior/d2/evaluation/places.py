"""The files of sets that others registered: Detectron2's own under ``$DETECTRON2_DATASETS``, and the user's.

Detectron2 reads them when the first step, or the first evaluation, is due; what is missing is then a traceback.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_instances
from detectron2.data.datasets.lvis import load_lvis_json

from scaleprior.d2.evaluation.builtin_root import is_builtin, missing_place
from scaleprior.d2.evaluation.kinds import evaluator_type, missing_modules
from scaleprior.d2.evaluation.voc import check_voc, listed_files
from scaleprior.errors import UserError
from scaleprior.wording import counted

__all__ = ["annotation_files", "check_lvis", "check_places", "needs_package"]

# Metadata that is a path -> what lies there.
_WHAT = {
    "json_file": "annotations",
    "panoptic_json": "panoptic annotations",
    "panoptic_root": "panoptic masks",
    "sem_seg_root": "semantic masks",
    "gt_dir": "labels",
    "image_dir": "images",
    "image_root": "images",
}
_READ = {  # kind of set -> the keys of what its loader reads
    "sem_seg": ("sem_seg_root", "image_root"),
    "cityscapes_instance": ("image_dir", "gt_dir"),
    "cityscapes_sem_seg": ("image_dir", "gt_dir"),
    "cityscapes_panoptic_seg": ("panoptic_json", "panoptic_root", "image_root"),
}
_JSON = ("json_file", "image_root")
_PANOPTIC = ("panoptic_json", "panoptic_root")
_LOADERS = {"lvis": load_lvis_json, "cityscapes_instance": load_cityscapes_instances}
# As Detectron2's datasets/README.md has it; under which name a checkout imports a package is its own affair.
_INSTALL = {
    "lvis": "pip install git+https://github.com/lvis-dataset/lvis-api.git",
    "panopticapi": "pip install git+https://github.com/cocodataset/panopticapi.git",
    "cityscapesscripts": "pip install git+https://github.com/mcordts/cityscapesScripts.git",
}
_IMAGE, _LABELS = "_leftImg8bit.png", ("_gtFine_instanceIds.png", "_gtFine_labelIds.png", "_gtFine_polygons.json")


def check_places(name: str, *, evaluated: bool) -> None:
    """Refuse a registered set whose files are not there, or whose reading needs a package that is not.

    Args:
        evaluated: it is, and not only trained on.

    Raises:
        UserError: names the first path that is missing, and for Detectron2's own sets DETECTRON2_DATASETS.
    """
    kind, metadata = evaluator_type(name), MetadataCatalog.get(name)
    loader = _LOADERS.get(kind or "")
    # a loader of the user's may read the same kind of set in its own way
    if loader is not None and DatasetCatalog[name].__module__.startswith("detectron2."):
        needs_package(f"data set {name} is read by Detectron2's {loader.__name__}", missing_modules(loader))
    if kind == "pascal_voc" or _is_voc(metadata):
        check_voc(name, metadata, evaluated=evaluated)
        return
    for key, path in _paths(kind, metadata, evaluated=evaluated):
        if "://" not in path and not os.path.exists(path):
            raise missing_place(name, _WHAT[key], path)
    if kind in ("cityscapes_instance", "cityscapes_sem_seg") and {"image_dir", "gt_dir"} <= metadata.as_dict().keys():
        _check_cityscapes(name, kind, metadata)


def annotation_files(name: str) -> list[str]:
    """The files whose content is the truth of a registered set, as far as its metadata tell; they may be many."""
    metadata = MetadataCatalog.get(name)
    if _is_voc(metadata) and "://" not in metadata.dirname:
        return [str(path) for path in listed_files(name, metadata)]
    path = metadata.get("json_file")
    return [path] if path else []


def needs_package(what: str, modules: list[str]) -> None:
    """Refuse ``what``, if there are modules that it imports and that are missing.

    Raises:
        UserError: names them.
    """
    if not modules:
        return
    package = next((known for known in _INSTALL if known in modules[0].split(".")), "")
    exact = modules[0].split(".")[0] == package
    install = _INSTALL.get(package, f"install the package that has {modules[0]}")
    other = f"; this Detectron2 imports it as {modules[0]}" if package and not exact else ""
    raise UserError(f"{what}, which needs {package or modules[0]}, and that is not installed", hint=install + other)


def check_lvis() -> None:
    """Refuse the lvis of 2020, which PyPI still has, beside a NumPy without the names that it ends its evaluation with.

    Raises:
        UserError: says where the present one is.
    """
    spec = find_spec("lvis.eval")
    text = Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else ""
    if re.search(r"\bnp\.float\b", text) and not hasattr(numpy, "float"):
        raise UserError(
            f"the installed lvis uses np.float, which NumPy {numpy.__version__} does not have", hint=_INSTALL["lvis"]
        )


def _paths(kind: str | None, metadata: Any, *, evaluated: bool) -> Iterator[tuple[str, str]]:
    """(key, path) of what is read, as far as the metadata tell."""
    if kind == "coco_panoptic_seg":
        # "separated" sets are trained on by their instances and semantic masks
        separated = metadata.get("sem_seg_root") is not None
        keys = (*_JSON, "sem_seg_root") if separated else (*_PANOPTIC, "image_root")
        keys = tuple(dict.fromkeys([*keys, *_PANOPTIC, "json_file"])) if evaluated else keys
    else:
        keys = _READ.get(kind or "", _JSON)
    for key in keys:
        path = metadata.get(key)
        # Names of files may be absolute in a set of the user's, whose folder then means nothing.
        if isinstance(path, (str, os.PathLike)) and str(path) and (key != "image_root" or is_builtin(str(path))):
            yield key, str(path)


def _is_voc(metadata: Any) -> bool:
    """Registered by ``register_pascal_voc``, which leaves the evaluator type to the caller."""
    return all(metadata.get(key) is not None for key in ("dirname", "split", "year"))


def _check_cityscapes(name: str, kind: str, metadata: Any) -> None:
    """Every image has its labels; Detectron2 asserts it of the first one."""
    labels = [label for label in _LABELS if kind == "cityscapes_instance" or label != _LABELS[0]]
    if kind == "cityscapes_sem_seg":
        labels.append("_gtFine_labelTrainIds.png")
    images = sorted(Path(metadata.image_dir).glob(f"*/*{_IMAGE}"))
    if not images:
        raise missing_place(name, "images", os.path.join(metadata.image_dir, "CITY", f"*{_IMAGE}"))
    for label in labels:
        wanted = [Path(metadata.gt_dir, i.parent.name, i.name.removesuffix(_IMAGE) + label) for i in images]
        gone = [path for path in wanted if not path.is_file()]
        if gone:
            hint = "createTrainIdLabelImgs of cityscapesscripts makes them" if "TrainIds" in label else "get them again"
            raise UserError(
                f"data set {name}: {counted(len(gone), 'label files that are missing')}, first: {gone[0]}", hint=hint
            )
