"""Whether an index is as it was built, and its images are where it says, with its sizes; if asked, to the last bit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from scaleprior.checking import CheckReport, Finding
from scaleprior.corpus.fraction import Fraction
from scaleprior.corpus.integrity import check_rows
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn
from scaleprior.wording import counted

__all__ = ["check_corpus", "verify_corpus"]

_CHUNK = 1024  # files a task
_THREADS = 32
_READERS = 8  # threads; checksums release the interpreter lock
_BATCH = 4096  # images
_NAMED = 5


def check_corpus(
    fraction: Fraction,
    *,
    start: int = 0,
    name: str = "corpus",
    tolerated: float = 0.0,
    progress: ProgressFn | None = None,
) -> CheckReport:
    """Ask the file system for every file, tar or image, that ``fraction`` has images in.

    Args:
        start: the first row to look at.
        name: of the corpus in the report's facts.
        tolerated: share of the images, in [0, 1], that a run goes on without.
        progress: called with (files done, files in all, {}).
    """
    report = CheckReport()
    corpus = fraction.corpus
    with report.collecting("index_changed"):
        check_rows(corpus)
    files, file_of, ends = fraction.extents(start)
    sizes = np.array(_sizes(str(corpus.root), files, progress), dtype=np.int64)
    images = len(file_of)
    report.facts[name] = (
        f"{corpus.name}: {images:,} of {len(corpus):,} images in {len(files):,} files under {corpus.root}"
    )
    beyond = ends > sizes[file_of]
    absent = beyond & (sizes[file_of] < 0)
    stops = int(beyond.sum()) > tolerated * images
    for kind, things, rows in (
        ("corpus_missing", f"files that are not under {corpus.root}", absent),
        (
            "corpus_changed",
            f"files that are shorter than when indexed, under {corpus.root}",
            beyond & ~absent,
        ),
    ):
        lost = np.unique(file_of[rows])
        needed = np.zeros(len(files), dtype=np.int64)
        np.maximum.at(needed, file_of[rows], ends[rows])
        if kind == "corpus_missing":
            offenders = [files[code] for code in lost]
        else:
            offenders = [f"{files[code]} has {sizes[code]} bytes, the index needs {needed[code]}" for code in lost]
        if offenders:
            things += f", with {int(rows.sum()):,} of {images:,} images"
            hint = "copy them back, or build the index again"
            report.add(Finding.of(kind, corpus.path, things, offenders, hint=hint, stops=stops))
    return report


def verify_corpus(fraction: Fraction, *, progress: ProgressFn | None = None) -> CheckReport:
    """Hold every row against the index' digests and the bytes of every image against its checksum; nothing is skipped.

    Args:
        progress: called with (images done, images in all, {}).
    """
    corpus = fraction.corpus
    report = CheckReport()
    with report.collecting("index_changed"):
        check_rows(corpus, remember=False)
    if "crc32" not in fraction.columns:
        report.take(check_corpus(fraction))
        what = f"{corpus.path} has no checksums, so no image was read: they are there, and no shorter than indexed"
        report.add(Finding("no_checksums", what, hint="build the index again to have them", stops=False))
        return report
    files, file_of, ends = fraction.extents()
    report.facts["corpus"] = f"{corpus.name}: {len(fraction):,} images in {len(files):,} files under {corpus.root}"
    order = np.lexsort((ends, file_of))  # each file from front to back
    count, examples = 0, list[str]()
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH].tolist()
            problems = [problem for problem in pool.map(lambda row: _problem(fraction, row), rows) if problem]
            count, examples = count + len(problems), [*examples, *problems][:_NAMED]
            if progress is not None:
                progress(start + len(rows), len(order), {})
    if count:
        what = f"{corpus.path} has {counted(count, 'images that are not as indexed')}"
        hint = "copy the files again, or build the index again"
        report.add(Finding("image_changed", what, count, tuple(examples), hint))
    return report


def _problem(fraction: Fraction, row: int) -> str:
    try:
        fraction.read(row)
    except UserError as e:
        return str(e).split("; ")[0]
    return ""


def _sizes(root: str, files: Sequence[str], progress: ProgressFn | None) -> list[int]:
    """Bytes of each file; -1 for one that is not there. In threads, because a file system may answer late."""
    found: list[int] = []
    stream = iter(files)
    chunks = iter(lambda: list(islice(stream, _CHUNK)), [])
    with ThreadPoolExecutor(_THREADS) as pool:
        for sizes in pool.map(lambda chunk: [_size(os.path.join(root, file)) for file in chunk], chunks):
            found += sizes
            if progress is not None:
                progress(len(found), len(files), {})
    return found


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
