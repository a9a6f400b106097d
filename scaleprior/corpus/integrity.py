"""Whether the rows of an index are those that were indexed: held against its fingerprint before it is learned from.

All rows are read once, a row group at a time; that they passed is remembered under ScalePrior's home by the identity of
the files, so the next time costs a few calls of ``stat``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from scaleprior.corpus.digest import IndexDigest
from scaleprior.corpus.fraction import Fraction, Whole
from scaleprior.errors import ScalePriorError, UserError
from scaleprior.files import write_json
from scaleprior.home import home_folder
from scaleprior.parsing import read_json

__all__ = ["check_rows"]

logger = logging.getLogger(__name__)

_WORDS = {
    "label_space": "the label space",
    "key": "the keys",
    "hash": "the hashes",
    "labels": "the labels",
    "size": "the sizes of the images",
    "absent": "the absent labels",
    "shard": "the names of the shards",
    "path": "the paths of the images",
    "offset": "the places of the images",
    "crc32": "the checksums of the images",
}


def check_rows(corpus: Whole, *, remember: bool = True) -> None:
    """Refuse an index whose rows or label space have changed since it was built.

    A fraction saved by an earlier version has no digests of its own and cannot be checked; that, and that an index has
    no checksums of its images, is logged once.

    Args:
        remember: believe that files which passed and have not been touched since still do.

    Raises:
        UserError: names what has changed.
    """
    marks = _marks(corpus)
    kept = home_folder() / "checks" / f"index-{hashlib.sha256(os.fsencode(corpus.path)).hexdigest()[:32]}.json"
    if remember and _passed(kept, marks):
        return
    fraction = Fraction(corpus, len(corpus))
    digest = IndexDigest(corpus.facts["schema"], corpus.facts["salt"], corpus.label_space.fingerprint)
    rows = 0
    for table in fraction.batches(*fraction.columns, whole=True):
        rows += table.num_rows
        digest.update(table)
    if rows != len(corpus):
        raise _changed(corpus, f"its number of rows (now {rows:,}, then {len(corpus):,})")
    _compare(corpus, digest)
    if "crc32" not in fraction.columns:
        logger.warning(
            "%s has no checksums of its images (it is older, or was built without decoding them): whether they have "
            "changed cannot be told",
            corpus.path,
        )
    try:
        write_json(kept, {"marks": marks}, durable=False)
    except ScalePriorError as e:  # the next time reads again
        logger.info("that %s is as it was indexed is not remembered: %s", corpus.path, e)


def _compare(corpus: Whole, digest: IndexDigest) -> None:
    found, recorded = digest.columns(), corpus.facts.get("columns")
    if recorded is not None:
        differing = [name for name in _WORDS if found.get(name) != recorded.get(name)]
        if differing:
            words = [_WORDS[name] for name in differing]
            listed = " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
            raise _changed(corpus, listed)
    if corpus.path.is_dir():
        now = digest.hexdigest(upright=corpus.facts.get("turned", 0) > 0)
        if now != corpus.fingerprint:
            what = f"its rows or its label space (by the fingerprint: now {now[:12]}, then {corpus.fingerprint[:12]})"
            raise _changed(corpus, what)
    elif recorded is None:
        logger.warning("%s was saved by an earlier version: whether its rows have changed cannot be told", corpus.path)


def _changed(corpus: Whole, what: str) -> UserError:
    return UserError(
        f"{corpus.path} is not what was indexed; changed are {what}", hint="copy it again, or build it again"
    )


def _marks(corpus: Whole) -> list[Any]:
    """What would have to be the same for the answer to be the same, JSON-ready."""
    files = [corpus.parquet, *([corpus.path / "label_space.json"] if corpus.path.is_dir() else [])]
    facts = hashlib.sha256(json.dumps(corpus.facts, sort_keys=True).encode()).hexdigest()
    return [str(corpus.path), facts, *map(_identity, files)]


def _identity(path: Path) -> list[int] | None:
    """What changes whenever a file does; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _passed(kept: Path, marks: list[Any]) -> bool:
    if not kept.is_file() or None in marks:
        return False
    try:
        found = read_json(kept)
    except UserError:
        return False  # damaged: as if nothing was kept
    return isinstance(found, dict) and found.get("marks") == marks
