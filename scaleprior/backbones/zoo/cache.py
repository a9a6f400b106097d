"""The zoo's folder: the user's catalogue, verified files under their SHA-256, what is on its way, and locks.

``$SCALEPRIOR_HOME`` (default ``~/.cache/scaleprior``)::

    zoo.yaml                    the user's catalogue
    zoo/files/SHA256/NAME.EXT   files, each in the folder of its own hash
    zoo/canonical/SHA256-V/     the same as canonical files, converted by version V of ScalePrior
    zoo/converted/SHA256-V-C/   foreign files as canonical ones, whose cards hash to C
    zoo/records/NAME.json       which file a name means: address, hash, bytes
    zoo/partial/NAME            downloads under way, kept for going on
    zoo/locks/NAME              one process works on a name at a time
    coco/SHA256/                COCO annotations with what was missing filled in
    checks/                     what checks found of files that have not changed since
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scaleprior._version import __version__
from scaleprior.backbones.zoo.hashes import PrintedHash, file_digests
from scaleprior.errors import FailureError, UserError
from scaleprior.files import write_json
from scaleprior.home import home_folder
from scaleprior.parsing import is_regular, read_json
from scaleprior.places import check_name
from scaleprior.wording import one_line, shown

__all__ = ["Record", "ZooHome", "is_intact"]

logger = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Record:
    """What is known of the file that a name stands for.

    Attributes:
        url: where it came from.
        sha256: of its bytes.
        file: its name in the folder of that hash.
    """

    url: str
    sha256: str
    file: str


@dataclass(frozen=True)
class ZooHome:
    """Paths below the zoo's folder."""

    root: Path

    @classmethod
    def current(cls) -> ZooHome:
        """The folder that the environment names now."""
        return cls(home_folder())

    @property
    def catalogue(self) -> Path:
        """The user's catalogue; may be absent."""
        return self.root / "zoo.yaml"

    def file(self, sha256: str, name: str) -> Path:
        """Where a file of this hash lies."""
        return self.root / "zoo" / "files" / sha256 / name

    def canonical(self, sha256: str, name: str) -> Path:
        """Where the conversion of the file of this hash lies."""
        return self.root / "zoo" / "canonical" / f"{sha256}-{__version__}" / f"{name}.safetensors"

    def converted(self, sha256: str, card: str, name: str) -> Path:
        """Where the conversion lies of a user's file of this hash, to a backbone whose card has the hash ``card``."""
        return self.root / "zoo" / "converted" / f"{sha256}-{__version__}-{card[:16]}" / f"{name}.safetensors"

    def partial(self, name: str) -> Path:
        """Where a download of this entry grows."""
        return self.root / "zoo" / "partial" / name

    def read_record(self, name: str) -> Record | None:
        """What an earlier download left; None if there was none."""
        path = self._record(name)
        if not is_regular(path):
            return None
        try:
            raw = read_json(path, what="record of the zoo")
            sha256, file = str(raw["sha256"]), check_name(raw["file"], what="file")
            if not _SHA256.fullmatch(sha256):
                raise ValueError(f"sha256 is {shown(sha256)}")
            return Record(url=str(raw["url"]), sha256=sha256, file=file)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
            raise UserError(f"record of the zoo {path} is damaged: {one_line(e)}", hint="remove it") from e

    def write_record(self, name: str, record: Record) -> None:
        """Note which file a name means."""
        write_json(self._record(name), {"schema": 1, **vars(record)})

    def _record(self, name: str) -> Path:
        return self.root / "zoo" / "records" / f"{name}.json"

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keep other processes off ``name``, waiting for one that is at work; goes with the process.

        Raises:
            FailureError: the folder cannot be written.
        """
        path = self.root / "zoo" / "locks" / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as e:
            raise FailureError(
                f"the zoo's folder {self.root} cannot be written: {e.strerror or e}",
                hint="set SCALEPRIOR_HOME to a folder that can",
            ) from e
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("another process is at work on %s, waiting for it", name)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def is_intact(path: Path, sha256: str, printed: PrintedHash | None = None) -> bool:
    """The file is there and has this SHA-256, and the hash that its publisher printed, if he did."""
    try:
        found = file_digests(path, {"sha256", *([printed.algorithm] if printed else ())})
    except FileNotFoundError:
        return False
    except OSError as e:
        raise FailureError(f"{path} cannot be read: {e.strerror or e}", hint="check the file") from e
    return found["sha256"] == sha256 and (printed is None or printed.of(found))
