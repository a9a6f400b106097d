"""The disk room of decoded images: which sets lie there, who uses them, and which goes when another needs the room."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from scaleprior.detect.data.store.stored import Shape, StoredImages, file_bytes
from scaleprior.errors import ScalePriorError, UserError
from scaleprior.files import write_json
from scaleprior.home import home_folder
from scaleprior.parsing import read_json

__all__ = ["Room", "Tenant", "machine_room", "tenants"]

logger = logging.getLogger(__name__)

_SCHEMA = 1
_RECORD = "set.json"
_LOCK = ".lock"
_GONE = ".gone-"  # begins the name of a set that is being removed


@dataclass(frozen=True)
class Tenant:
    """A set in the room.

    Attributes:
        bytes: that it may take; it takes them as its images are decoded.
        used: when it was opened last, in seconds since 1970.
        about: what it is, for people; ``images`` is where it was decoded from, a path a line.
    """

    folder: Path
    bytes: int
    used: float
    about: Mapping[str, Any]

    @property
    def useless(self) -> bool:
        """Whether it cannot be read, or nothing is left of what it was decoded from."""
        sources = str(self.about.get("images", "")).splitlines()
        return not self.bytes or (bool(sources) and not any(map(os.path.exists, sources)))


class Room:
    """A folder that takes sets of decoded images, by their identity.

    Room is given to whole sets when they are opened, which is when others are removed for them, so that writing an
    image asks nobody. Programs may be given different sizes of one room; each sees to its own when it opens a set.

    Args:
        folder: made when the first set is opened; whoever wants the room back may remove it at any time.
        size: bytes that all sets may take together.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size

    def open(
        self, identity: Mapping[str, Any], shapes: Sequence[Shape], *, about: Mapping[str, Any]
    ) -> StoredImages | None:
        """The set with this identity, begun if there is none; None where no image of it has room.

        Args:
            identity: JSON-ready; all that the pixels depend on but the encoded files: names, order of channels, size,
                decoder, ...
            shapes: of each image's uint8 array.
            about: JSON-ready; see :class:`Tenant`.
        """
        text = json.dumps([_SCHEMA, identity, shapes], sort_keys=True, default=str)
        place = self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]
        wanted = sum(map(file_bytes, shapes))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _alone(self.folder / _LOCK):
                granted = self._make_room(place, wanted)
                lock = _enter(place, granted, about) if granted else None
            for left in self.folder.glob(f"{_GONE}*"):
                shutil.rmtree(left, ignore_errors=True)
            found = None if lock is None else StoredImages(place, lock, shapes, granted)
        except (OSError, ScalePriorError) as e:
            _say_once(f"decoded images cannot be stored in {self.folder}, and are decoded as without it: {e}")
            return None
        stored = 0 if found is None else len(found)
        logger.info("%d of %d decoded images have room in %s", stored, len(shapes), place)
        return found if stored else None

    def _make_room(self, place: Path, wanted: int) -> int:
        """Bytes for the set at ``place``, after sets that nobody uses were removed for it, longest unused first.

        A set that would not fit if it were alone takes what is free: nobody else's is removed for a part of it. Sets
        whose images are gone go anyway.
        """
        others = sorted(tenants(self.folder), key=lambda tenant: tenant.used)
        own = sum(tenant.bytes for tenant in others if tenant.folder == place)
        others = [tenant for tenant in others if tenant.folder != place]
        taken = sum(tenant.bytes for tenant in others)
        needed = wanted if wanted <= self.size else 0
        for tenant in others:
            if (taken + needed > self.size or tenant.useless) and _remove(tenant.folder):
                taken -= tenant.bytes
        # the disk is others', too, for whom half of what is free is left
        granted = max(0, min(wanted, self.size - taken, own + shutil.disk_usage(self.folder).free // 2))
        if granted < own:
            _remove(place)  # what lies beyond the room; if it is in use, when it is opened next
        return granted


def machine_room(megabytes: int) -> Room | None:
    """The room in ScalePrior's folder, which all programs of the machine share; None for 0.

    Args:
        megabytes: of 2**20 bytes; ``SCALEPRIOR.IMAGE_STORE_MB``.
    """
    return Room(home_folder() / "images", megabytes * 2**20) if megabytes else None


def tenants(folder: Path) -> list[Tenant]:
    """The sets in a room's folder; one whose record cannot be read has 0 bytes."""
    found = []
    with contextlib.suppress(OSError):
        for place in sorted(folder.iterdir()):
            if place.name.startswith(".") or not place.is_dir():
                continue
            record = _record(place)
            used = 0.0
            with contextlib.suppress(OSError):
                used = (place / _LOCK).stat().st_mtime
            found.append(Tenant(place, record.pop("bytes"), used, record))
    return found


def _record(place: Path) -> dict[str, Any]:
    with contextlib.suppress(UserError):
        record = read_json(place / _RECORD)
        if isinstance(record, dict) and isinstance(record.get("bytes"), int):
            return record
    return {"bytes": 0}


def _enter(place: Path, granted: int, about: Mapping[str, Any]) -> IO[Any]:
    """Make or open the set; the file that is returned says that it is in use until it is closed."""
    place.mkdir(exist_ok=True)
    lock = open(place / _LOCK, "a+b")  # noqa: SIM115 (the caller keeps it)
    fcntl.flock(lock, fcntl.LOCK_SH)  # at once: who removes sets has to be alone in the room
    os.utime(place / _LOCK)
    # more than granted where a program that was given a larger room still has the set open
    write_json(place / _RECORD, {"bytes": max(granted, _record(place)["bytes"]), **about}, durable=False)
    return lock


def _remove(place: Path) -> bool:
    """Take a set that nobody uses out of the room; its files go afterwards, when nobody has to wait for it."""
    try:
        with open(place / _LOCK, "a+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(place, place.with_name(f"{_GONE}{place.name}-{os.getpid()}"))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time gives and takes room; none decodes or reads an image meanwhile for it."""
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _say_once(text: str) -> None:
    logger.warning("%s", text)
