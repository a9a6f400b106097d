"""Sources without a table of labels: files by a pattern, tars, Parquet files with images, class folders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scaleprior.corpus.importers.doubts import left_tars
from scaleprior.corpus.importers.patterns import is_pattern, matching_files
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.importers.splits import folders_in, missing_files
from scaleprior.corpus.importers.walk import is_folder
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.magic import IMAGE_LIKE, refuse_compressed, refuse_pointer
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn
from scaleprior.wording import parameter

__all__ = ["PACKED_TABLES", "files_given", "source_without_table"]

PACKED_TABLES = (".csv.gz", ".tsv.gz", ".txt.gz")
"""Compressed files that are read as they are; images are not, since they are read in place."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.I)
_FEW = 20  # folders that are looked into for tars and Parquet files; class folders are more, as a rule


def files_given(source: str | Path) -> list[Path] | None:
    """The tars, or Parquet files with images, that ``source`` is or is a pattern of; None if it is something else.

    Raises:
        UserError: a pattern of nothing or of other files, or a file that is compressed.
    """
    from scaleprior.corpus.importers.archives import is_tar

    text = str(source)
    if not text:
        raise UserError("the source is an empty text", hint="give a folder, a table or files; . is this folder")
    if _URL.match(text) and not os.path.exists(text):
        raise UserError(f"{text} is a URL, and sources are read from this machine", hint="download it first")
    if not is_pattern(text):
        path = Path(source)
        if not path.is_file():
            return None
        if not path.name.lower().endswith(PACKED_TABLES):
            refuse_compressed(path)
        return [path] if is_tar(path) or _has_images(path) else None
    files = matching_files(text)
    for path in files:
        refuse_compressed(path)
    if not (all(map(is_tar, files)) or all(map(_has_images, files))):
        raise UserError(
            f"{text} names {len(files):,} files that are not all tars, or all Parquet files with images, such as "
            f"{files[0].name!r}",
            hint="give such files, or a folder",
        )
    return files


def source_without_table(
    path: Path,
    files: Sequence[Path] | None,
    *,
    label_space: LabelSpace | None,
    file_column: str | None = None,
    label_column: str | None = None,
    class_names: str | Path | None = None,
    split: str | None = None,
    readable: bool = False,
    progress: ProgressFn | bool | None = None,
) -> Source:
    """Open ``files``, see :func:`files_given`, or what lies in the folder ``path``; the rest is ``open_source``'s."""
    found: list[Path] = []
    if files is None:
        files, split = _files_in(path, split)
        found = list(files)
    if files and _has_images(files[0]):
        from scaleprior.corpus.importers.huggingface import huggingface_source

        source = huggingface_source(
            files,
            label_space=label_space,
            file_column=file_column,
            label_column=label_column,
            class_names=class_names,
            split=split,
        )
        return replace(source, doubts=(*missing_files(found, split), *source.doubts))
    _refuse_options(path, file_column=file_column)
    if files:
        from scaleprior.corpus.importers.archives import archive_source

        source = archive_source(
            files,
            label_space=label_space,
            label_column=label_column,
            class_names=class_names,
            split=split,
            readable=readable,
            progress=progress,
        )
        return replace(source, doubts=(*missing_files(found, split), *source.doubts))
    from scaleprior.corpus.importers.folders import folder_source

    _refuse_options(path, label_column=label_column, class_names=class_names)
    source = folder_source(path, label_space, split=split, readable=readable)
    return replace(source, doubts=(*source.doubts, *left_tars(path, sorted(path.glob("*.tar")))))


def _refuse_options(path: Path, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise UserError(
                f"{parameter(option)} {str(value)!r} needs a table of labels, {path} has none",
                hint=f"pass {parameter('labels', words='TABLE')}",
            )


def _files_in(path: Path, split: str | None) -> tuple[list[Path], str | None]:
    """The tars or Parquet files that the folder consists of, and the split that is still to be chosen among them."""
    if split is not None and (path / split).is_dir():
        inside, _ = _files_in(path / split, None)
        return inside, None if inside else split
    folders = folders_in(path)
    parquets = sorted(path.glob("*.parquet"))
    tars = sorted(path.glob("*.tar"))
    if len(folders) <= _FEW and not any(_holds_images(path / name) for name in folders):
        parquets = parquets or sorted(path.glob("*/*.parquet")) or sorted(path.glob("*/*/*.parquet"))
        tars = tars or sorted(path.glob("*/*.tar"))
    elif folders:
        tars = []
    if parquets and _has_images(parquets[0]):
        return parquets, split
    return tars, split


def _holds_images(folder: Path) -> bool:
    """Whether images lie in the folder, or in the first of its folders."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return False
    below = sorted(entry.path for entry in entries if is_folder(entry))
    return any(os.path.splitext(entry.name)[1].lower() in IMAGE_LIKE for entry in entries) or any(
        map(_holds_images, map(Path, below[:1]))
    )


def _has_images(path: Path) -> bool:
    if path.suffix.lower() != ".parquet":
        return False
    from scaleprior.corpus.importers.huggingface import holds_images

    refuse_pointer(path)
    return holds_images(path)
