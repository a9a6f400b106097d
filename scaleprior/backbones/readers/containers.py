"""Which kind of file is this (by its first bytes, never by its name), and what tree of tensors is in it."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.addresses import path_of
from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError
from scaleprior.backbones.readers.strangers import NEEDED, folder_words, stranger, zip_words
from scaleprior.errors import UserError
from scaleprior.parsing import is_regular, open_regular

if TYPE_CHECKING:
    from scaleprior.backbones.readers.pickle.plain import Tree

__all__ = ["KINDS", "Content", "locate", "open_container", "sniff", "without_weights"]

_FEW = 64
"""Numbers in the largest tensor that is no weight but a setting, such as a detector's ``pixel_mean``."""


@dataclass(frozen=True)
class Content:
    """What a file holds before any name in it has a meaning.

    Attributes:
        kind: key of ``KINDS``.
        tree: nested dicts and lists, or one dict of tensors; a pickle's other objects are :class:`Placeholder`.
        path: where it was read.
        metadata: texts of a safetensors header.
        left_out: objects of a pickle that were passed over, "where: class".
    """

    kind: str
    tree: Any
    path: Path
    metadata: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def _safetensors(path: Path, limits: Limits) -> Content:
    from scaleprior.backbones.readers.safetensors_files import load_safetensors

    tensors, metadata = load_safetensors(path, limits=limits)
    return Content("safetensors", tensors, path, metadata)


def _shards(path: Path, limits: Limits) -> Content:
    from scaleprior.backbones.readers.shards import load_shards

    def load(shard: Path) -> Any:
        kind = sniff(shard, limits=limits)
        if kind == "shards":  # perhaps the index itself
            raise RefusedFileError("damaged", f"{path} names {shard.name} as a shard, which is an index of shards")
        return KINDS[kind][1](shard, limits).tree

    return Content("shards", load_shards(path, load, limits), path)


def _torch_zip(path: Path, limits: Limits) -> Content:
    from scaleprior.backbones.readers.pickle.torch_files import load_torch_zip

    return _of_pickle("torch", load_torch_zip(path, limits=limits), path)


def _torch_legacy(path: Path, limits: Limits) -> Content:
    from scaleprior.backbones.readers.pickle.torch_files import load_torch_legacy

    return _of_pickle("torch-legacy", load_torch_legacy(path, limits=limits), path)


def _npz(path: Path, limits: Limits) -> Content:
    from scaleprior.backbones.readers.npz_files import load_npz

    return Content("npz", load_npz(path, limits=limits), path)


def _pickle(path: Path, limits: Limits) -> Content:
    from scaleprior.backbones.readers.pickle.load import load_pickle

    return _of_pickle("pickle", load_pickle(str(path), limits=limits), path)


def _of_pickle(kind: str, tree: Tree, path: Path) -> Content:
    return Content(kind, tree.content, path, left_out=tree.left_out)


KINDS: dict[str, tuple[str, Callable[[Path, Limits], Content]]] = {
    "safetensors": ("safetensors (ScalePrior, timm, Hugging Face)", _safetensors),
    "shards": ("a Hugging Face index of shards (.safetensors or .bin)", _shards),
    "torch": ("torch .pth, .pt, .bin (zip format), TorchScript", _torch_zip),
    "torch-legacy": ("torch .pth before 1.6", _torch_legacy),
    "npz": ("NumPy .npz (BiT)", _npz),
    "pickle": ("Detectron2, MSRA and Caffe2 .pkl", _pickle),
}
"""Kind -> (what people call it, reader)."""

_IN_FOLDERS = (
    "backbone.safetensors", "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)  # fmt: skip


def locate(source: str | Path) -> Path:
    """The weights file that ``source`` means: itself, or the one inside a run's or a model's folder.

    Raises:
        UserError: nothing there, or an address of somewhere else.
    """
    path = path_of(source)
    if path.is_dir():
        found = [path / name for name in _IN_FOLDERS if is_regular(path / name)]
        if not found:
            there = folder_words(path)
            known = f"a folder may hold one of {', '.join(_IN_FOLDERS)}"
            raise UserError(f"no weights in the folder {path}", hint=f"{there}; {known}" if there else known)
        return found[0]
    open_regular(path, what="weights").close()  # a pipe or a device gives bytes without end, or none and waits
    return path


def sniff(path: Path, *, limits: Limits = LIMITS) -> str:
    """The file's kind, from its content.

    Raises:
        RefusedFileError: none that is known here.
    """
    from scaleprior.backbones.readers.archives import open_archive
    from scaleprior.backbones.readers.pickle.torch_files import LEGACY_MAGIC

    with open_regular(path, what="weights") as file:
        start = file.read(NEEDED)
    if start.startswith(b"PK\x03\x04"):
        names = [m.filename for m in open_archive(path, limits=limits)]
        if any(name.endswith("/data.pkl") for name in names):
            return "torch"
        if names and all(name.endswith(".npy") for name in names):
            return "npz"
        held = ", ".join(names[:3])
        raise RefusedFileError(
            "damaged", f"{path} is a zip archive without weights (holds {held})", hint=zip_words(names)
        )
    if len(start) > 9 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 1 << 40:
        return "safetensors"
    if start[2:].startswith(LEGACY_MAGIC):
        return "torch-legacy"
    if start[:1] == b"\x80" and len(start) > 1 and 2 <= start[1] <= 5:
        return "pickle"
    if start[:2] in (b"(d", b"}q", b"(l", b"]q", b"c_", b"cp", b"co") or start[:1] == b"c":
        return "pickle"  # protocols 0 and 1 have no signature
    if start.lstrip()[:1] == b"{":
        return "shards"
    raise _unknown(path, start)


def _unknown(path: Path, start: bytes) -> RefusedFileError:
    said = f"{path} is no kind of weights that is known here"
    if (known := stranger(start)) is not None:
        return RefusedFileError("damaged", f"{said}: {known[0]}", hint=known[1])
    return RefusedFileError("damaged", said, hint="known: " + "; ".join(words for words, _ in KINDS.values()))


def open_container(path: Path, *, limits: Limits = LIMITS) -> Content:
    """Read whatever kind of file this is, within ``limits``.

    Raises:
        UserError: no such file, or it cannot be read.
        RefusedFileError: what is in it breaks a limit, would run code, or is damaged.
    """
    try:
        with open_regular(path, what="weights") as file:
            limits.check_file(os.fstat(file.fileno()).st_size, str(path))
        return KINDS[sniff(path, limits=limits)][1](path, limits)
    except OSError as e:
        raise UserError(f"weights {path} cannot be read: {e.strerror or e}", hint="check the file") from e


def without_weights(tree: Any) -> Any:
    """The same dicts, lists and placeholders without their tensors and arrays, but for those of a few numbers."""
    from scaleprior.backbones.readers.pickle.placeholders import Placeholder

    if isinstance(tree, Placeholder):
        return Placeholder(tree.name, without_weights(tree.content), tree.modules)
    if isinstance(tree, Mapping):
        kept = {key: without_weights(value) for key, value in tree.items()}
        return {key: value for key, value in kept.items() if not _is_weight(value)}
    if isinstance(tree, list):
        return [kept for value in tree if not _is_weight(kept := without_weights(value))]
    return tree


def _is_weight(value: Any) -> bool:
    return hasattr(value, "dtype") and math.prod(value.shape) > _FEW
