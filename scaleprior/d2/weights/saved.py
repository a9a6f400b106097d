"""The checkpoint of Detectron2's that a run goes on from: the one that ``last_checkpoint`` names, or one before it.

torch writes the CRC-32 of every record into a file and does not look at them when it loads: a file with a flipped bit,
or with zeros where the disk lost a part, loads as another state. Here each record is held against its own.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from scaleprior.backbones.readers.containers import open_container
from scaleprior.d2.weights.checkpoint import EXTRA_KEY
from scaleprior.errors import FailureError, UserError

__all__ = ["POINTER", "checkpoint_in", "damage_to", "fingerprint_in", "numbered_checkpoints"]

logger = logging.getLogger("detectron2.scaleprior")

POINTER = "last_checkpoint"
_NAME = re.compile(r"model_(\d{7,})\.pth")  # as Detectron2's PeriodicCheckpointer calls them
_POINTER_BYTES = 4096  # a name; the longest that Linux takes has 255


def numbered_checkpoints(folder: Path) -> dict[Path, int]:
    """Those that are there, with the number of their last step, counted from 0; the newest first.

    Raises:
        FailureError: the folder cannot be read now, and may hold some.
    """
    try:
        names = os.listdir(folder)
    except OSError as e:
        raise FailureError(f"cannot read {folder}: {e.strerror}", hint="mend that, and run again") from e
    found = {folder / name: int(match[1]) for name in names if (match := _NAME.fullmatch(name))}
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def checkpoint_in(folder: Path, fingerprint: str | None, *, tell: bool = False) -> Path | None:
    """The checkpoint to go on from; None where ``last_checkpoint`` names none, or none is whole.

    Of a run that is known, one before the named one is taken only if it says that it is this run's: what lies in the
    folder may be of a run before.

    Args:
        fingerprint: of the run; None where nobody knows it.
        tell: of damaged ones, in one warning.

    Raises:
        FailureError: one cannot be read now, for want of rights or descriptors.
    """
    named = _named(folder)
    if named is None:
        return None
    numbered = numbered_checkpoints(folder)
    newest = numbered.get(named)
    earlier = [path for path, step in numbered.items() if path != named and (newest is None or step < newest)]
    damaged: dict[Path, str] = {}
    for path in (named, *earlier):
        reason = damage_to(path)
        if reason:
            damaged[path] = reason
        elif path == named or fingerprint_in(path) == fingerprint:
            _tell(folder, path, damaged, tell=tell)
            return path
    _tell(folder, None, damaged, tell=tell)
    return None


def damage_to(path: Path) -> str:
    """What is wrong with a file that torch wrote; empty where each of its records has its CRC-32.

    A pickle, as torch wrote before it wrote zip files, has none, and goes unchecked.

    Raises:
        FailureError: it cannot be read now, for want of rights or descriptors.
    """
    try:
        if not path.is_file():
            return "it is not there"
        with open(path, "rb") as raw:
            if raw.read(1) == pickle.PROTO:
                return ""
            with zipfile.ZipFile(raw) as file:
                records = file.infolist()
                if any(each.compress_type != zipfile.ZIP_STORED for each in records):
                    return "a record is compressed, which torch never does"
                if sum(each.file_size for each in records) > os.fstat(raw.fileno()).st_size:
                    return "its records are longer than the file"
                broken = file.testzip()
    except OSError as e:
        if e.errno in (None, errno.EIO, errno.EINVAL):  # what a disk, or a nonsensical offset in the file, gives
            return str(e)
        raise FailureError(
            f"checkpoint {path} cannot be read now: {e.strerror}", hint="mend that, and run again"
        ) from e
    # NotImplementedError is a RuntimeError: an unknown compression, as a flipped bit may say.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, LookupError, RuntimeError) as e:
        return " ".join(str(e).split()) or type(e).__name__
    return "" if broken is None else f"{broken} differs from its checksum"


def _named(folder: Path) -> Path | None:
    """What the pointer names, whether it is there or not; None without a pointer."""
    try:
        with open(folder / POINTER, "rb") as file:
            text = file.read(_POINTER_BYTES)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise FailureError(f"cannot read {folder / POINTER}: {e.strerror}", hint="mend that, and run again") from e
    name = os.path.basename(text.decode("utf-8", "replace").replace("\0", "").strip())
    return folder / (name or "a checkpoint without a name")


def fingerprint_in(path: Path) -> str | None:
    """Of the run that wrote a whole checkpoint, where it says so."""
    try:
        tree = open_container(path).tree
        text = tree.get(EXTRA_KEY) if isinstance(tree, Mapping) else None
        return json.loads(text).get("fingerprint") if isinstance(text, str) else None
    except (UserError, ValueError, AttributeError):  # not of ours
        return None


def _tell(folder: Path, taken: Path | None, damaged: Mapping[Path, str], *, tell: bool) -> None:
    if tell and damaged:
        start = f"beginning anew in {folder}" if taken is None else f"going on from {taken}"
        said = ", and ".join(f"{path.name} is damaged: {reason}" for path, reason in damaged.items())
        logger.warning("%s, because %s", start, said)
