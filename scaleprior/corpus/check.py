"""Whether the images of an index are still where it says, with the sizes that it says; none of them is decoded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from scaleprior.checking import CheckReport, Finding
from scaleprior.corpus.fraction import Fraction
from scaleprior.progress import ProgressFn

__all__ = ["check_corpus"]

_CHUNK = 1024  # files a task
_THREADS = 32  # for file systems that answer late


def check_corpus(
    fraction: Fraction, *, start: int = 0, name: str = "corpus", progress: ProgressFn | None = None
) -> CheckReport:
    """Ask the file system for every file, tar or image, that ``fraction`` has images in.

    Args:
        start: the first row to look at.
        name: of the corpus in the report's facts.
        progress: called with (files done, files in all, {}).
    """
    report = CheckReport()
    corpus = fraction.corpus
    files, ends = fraction.files(start)
    gone, shorter = [], []
    with ThreadPoolExecutor(_THREADS) as pool:
        stream = iter(files)
        chunks = iter(lambda: list(islice(stream, _CHUNK)), [])
        done = 0
        for sizes in pool.map(lambda chunk: _sizes(str(corpus.root), chunk), chunks):
            for size in sizes:
                if size is None:
                    gone.append(files[done])
                elif size < ends[done]:
                    shorter.append(f"{files[done]} has {size} bytes, the index needs {ends[done]}")
                done += 1
            if progress is not None:
                progress(done, len(files), {})
    images = f"{len(fraction) - start:,} of {len(corpus):,} images"
    report.facts[name] = f"{corpus.name}: {images} in {len(files):,} files under {corpus.root}"
    hint = "copy them back, or build the index again"
    if gone:
        things = f"files that are not under {corpus.root}"
        report.add(Finding.of("corpus_missing", corpus.path, things, gone, hint=hint))
    if shorter:
        things = f"files that are shorter than when they were indexed, under {corpus.root}"
        report.add(Finding.of("corpus_changed", corpus.path, things, shorter, hint=hint))
    return report


def _sizes(root: str, files: Sequence[str]) -> list[int | None]:
    found: list[int | None] = []
    for file in files:
        try:
            found.append(os.stat(os.path.join(root, file)).st_size)
        except OSError:
            found.append(None)
    return found
