"""Detectron2's own config files, by path: its ``model_zoo`` module needs a setuptools that is no longer current."""

from __future__ import annotations

import difflib
from pathlib import Path

import detectron2

from scaleprior.errors import UserError

__all__ = ["zoo_file", "zoo_folder"]


def zoo_folder() -> Path:
    """The folder with ``COCO-Detection/`` and ``common/``: inside an installed Detectron2, or in its checkout.

    Raises:
        UserError: this Detectron2 has neither.
    """
    assert detectron2.__file__ is not None
    package = Path(detectron2.__file__).resolve().parent
    # An installation copies (or links) the checkout's configs/ to the first place.
    places = (package / "model_zoo" / "configs", package.parent / "configs")
    for place in places:
        if (place / "COCO-Detection").is_dir():
            return place
    raise UserError(
        f"Detectron2's config files are neither at {places[0]} nor at {places[1]}",
        hint="install Detectron2 from its checkout, which holds them",
    )


def zoo_file(name: str) -> Path:
    """A file of Detectron2's zoo, e.g. ``COCO-Detection/retinanet_R_50_FPN_1x.yaml`` or ``common/models/retinanet.py``.

    Raises:
        UserError: there is no such file; lists near names.
    """
    folder = zoo_folder()
    path = folder / name
    if path.is_file():
        return path
    known = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix in (".yaml", ".py"))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:3]
    raise UserError(f"Detectron2's zoo ({folder}) has no file {name}", hint=f"there are {', '.join(near)}")
