"""Decoding every image of a source before it is indexed: what cannot be used, what is out of order, what is turned."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from scaleprior.corpus.images import ImageError, check_image
from scaleprior.corpus.notes import Notes
from scaleprior.corpus.shards import ByteReader
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn
from scaleprior.wording import parameter

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Verification"]

_BATCH_ROWS = 4096
_SKIPPED_LISTED = 10_000  # skipped files listed in corpus.json; the count is always complete


class _Row(Protocol):
    """What is needed of an ``ImageRow``."""

    @property
    def key(self) -> str: ...
    @property
    def shard(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    def _replace(self, *, checksum: int) -> Self: ...


R = TypeVar("R", bound=_Row)


class _Found(NamedTuple):
    """Of one image: why it cannot be used, or None; its CRC-32; whether it is turned; what is out of order."""

    problem: str | None
    checksum: int = 0
    turned: bool = False
    oddities: tuple[str, ...] = ()


class Verification:
    """What was found of a source's images; complete when :meth:`batches` has ended.

    Args:
        reader: reads them; None: rows pass unseen.
        limit: largest accepted share of images that cannot be used, in [0, 1].
        strict: images that are out of order without harm to their pixels cannot be used either.
        notes: is told of those where they can.
    """

    def __init__(self, reader: ByteReader | None, *, limit: float, strict: bool, notes: Notes) -> None:
        if not 0 <= limit <= 1:
            raise UserError(f"{parameter('max_skipped')} is {limit}", hint="give a share from 0 to 1")
        if strict and reader is None:
            raise UserError(
                f"{parameter('strict', True)} asks for images that are not decoded",
                hint="leave it out, or have every image decoded",
            )
        self.skipped = 0
        self.turned = 0
        self._files: list[dict[str, str]] = []
        self._reasons: Counter[str] = Counter()
        self._reader = reader
        self._limit = limit
        self._strict = strict
        self._notes = notes

    def batches(self, rows: Iterable[R], total: int, progress: ProgressFn | None) -> Iterator[list[R]]:
        """Batches of rows whose images decode. Threads suffice: reading and decoding release the interpreter lock."""
        stream = iter(rows)
        done = 0
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            while batch := list(islice(stream, _BATCH_ROWS)):
                done += len(batch)
                if self._reader is not None:
                    found = pool.map(lambda row: _look(self._reader, row, self._strict), batch)
                    batch = [
                        row._replace(checksum=each.checksum)
                        for row, each in zip(batch, found)
                        if self._takes(row.key, each)
                    ]
                yield batch
                if progress is not None:
                    progress(done, max(total, done), {"skipped": self.skipped})

    def _takes(self, key: str, found: _Found) -> bool:
        if found.problem is not None:
            self.skipped += 1
            self._reasons[found.problem.split(":")[0].split(" (")[0]] += 1
            if len(self._files) < _SKIPPED_LISTED:
                self._files.append({"key": key, "reason": found.problem})
            return False
        self.turned += found.turned
        for oddity in found.oddities:
            self._notes.warn(f"images with {oddity}, read nevertheless", key)
        return True

    def judge(self, kept: int) -> None:
        """Refuse a source of which too much was skipped.

        Raises:
            UserError: that, or there are no images at all.
        """
        seen = kept + self.skipped
        if seen == 0:
            raise UserError("the source holds no images", hint="check the folder and the filters")
        if self.skipped > self._limit * seen or kept == 0:
            examples = "; ".join(f"{entry['key']!r}: {entry['reason']}" for entry in self._files[:3])
            raise UserError(
                f"{self.skipped} of {seen} images ({self.skipped / seen:.1%}) cannot be used, accepted are "
                f"{self._limit:.1%}: {examples}",
                hint=f"repair or remove them, or raise {parameter('max_skipped')}",
            )

    def facts(self) -> dict[str, Any]:
        """For ``corpus.json``: ``verified``, ``skipped``, ``orientation`` and, of verified images, ``turned``."""
        verified = self._reader is not None
        return {
            "verified": verified,
            **({"strict": True} if self._strict else {}),
            "skipped": {"count": self.skipped, "reasons": dict(self._reasons), "files": self._files},
            "orientation": "applied",  # an index without this word is older, and its images are read as they are stored
            **({"turned": self.turned} if verified else {}),
        }


def _look(reader: ByteReader | None, row: _Row, strict: bool) -> _Found:
    assert reader is not None
    oddities: list[str] = []
    try:
        data = reader.read(row.shard or row.path, row.offset, row.size)
        facts = check_image(data, strict=strict, warn=oddities.append)
    except ImageError as e:
        return _Found(str(e))
    except UserError as e:
        return _Found(f"unreadable: {e}")
    return _Found(None, zlib.crc32(data), facts.turned, tuple(dict.fromkeys(oddities)))
