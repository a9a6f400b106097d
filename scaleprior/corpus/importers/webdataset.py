"""Importer for WebDataset shards: ``KEY.jpg`` with ``KEY.cls``, ``KEY.json`` or ``KEY.txt`` beside it in the tar.

Images stay in their shards. Files of one sample are neighbours, as WebDataset's own readers demand, so that a shard is
read as a stream.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scaleprior.corpus.importers.class_names import ClassNames
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.magic import IMAGE_LIKE
from scaleprior.corpus.names import inside
from scaleprior.corpus.notes import Notes
from scaleprior.corpus.shards import ByteReader
from scaleprior.corpus.tar_files import TarMember, tar_members
from scaleprior.errors import UserError
from scaleprior.wording import parameter, shown

__all__ = ["WebDataset", "looks_like_shard", "split_name"]

_LABEL_FILES = ("cls", "json", "txt")  # that may hold a sample's labels, the most explicit first
_NAME = re.compile(r"((?:.*/|)[^./][^.]*)[.]([^/]*)")  # the key ends at the first dot of the last part
_JSON_KEYS = ("label", "labels", "cls", "class", "class_id", "category", "wnid", "label_id")
_LARGEST = 1 << 20  # bytes of a file of labels
_TRIED = 1000  # samples in which a label that is asked for must show up

_Sample = dict[str, TarMember]  # by suffix


def split_name(name: str) -> tuple[str, str] | None:
    """Key and suffix of a member, as WebDataset cuts them, ``a/b.seg.png`` to ``a/b`` and ``seg.png``; None: no key."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match[1], match[2].lower())


def looks_like_shard(members: Sequence[TarMember]) -> bool:
    """Whether an image and a file of labels among ``members`` have one key."""
    keys: dict[str, set[str]] = {}
    for name in (split_name(member.name) for member in members):
        if name is not None:
            keys.setdefault(name[0], set()).add(name[1])
    return any(s & set(_LABEL_FILES) and any(f".{x}" in IMAGE_LIKE for x in s) for s in keys.values())


class WebDataset:
    """Rows of shards.

    Args:
        root: folder that the rows' shards are relative to.
        notes: counts what is not taken.
        label: a key of the JSON, or one of the suffixes; None looks for both by their usual names.
        names: of classes that are given by number.
    """

    def __init__(self, root: Path, notes: Notes, *, label: str | None, names: ClassNames) -> None:
        self._root = root
        self._notes = notes
        self._label = label
        self._names = names
        self._reader = ByteReader(root)
        self._seen = self._found = 0
        self._keys: dict[str, None] = {}

    def rows(self, shards: Iterable[Path], *, prefixed: bool) -> Iterator[ImageRow]:
        """One row a sample with an image; the key is the image's name, behind that of its shard if ``prefixed``."""
        for path in shards:
            shard = path.relative_to(self._root).as_posix()
            alone = labels_alone = pairs = 0
            for sample in self._samples(path):
                image = self._image(sample)
                has_labels = any(suffix in sample for suffix in _LABEL_FILES)
                pairs += image is not None and has_labels
                alone += image is not None and not has_labels
                labels_alone += image is None
                if image is None:
                    self._notes.warn("samples without an image (left out)", next(iter(sample.values())).name)
                    continue
                name = inside(image.name)
                if name is None:
                    self._notes.warn("names in tars that lead out of their folder (left out)", image.name)
                    continue
                key = f"{path.stem}/{name}" if prefixed else name
                yield ImageRow(key, self._labels(shard, sample), shard, image.name, image.offset, image.size)
            if alone and labels_alone and not pairs:
                raise UserError(
                    f"in {path} the files of a sample are not neighbours, which WebDataset demands",
                    hint="write the shards anew with their files sorted by name",
                )
        if self._label is not None and self._seen and not self._found:
            self._refuse_label()

    def _samples(self, path: Path) -> Iterator[_Sample]:
        members = ((split_name(m.name), m) for m in tar_members(path, left_out=self._notes.warn))
        for key, group in itertools.groupby(members, key=lambda pair: pair[0] and pair[0][0]):
            if key is None or key.rsplit("/", 1)[-1].startswith("__"):  # the latter are WebDataset's own
                for _, member in group:
                    self._notes.other(member.name)
                continue
            yield {name[1]: member for name, member in group if name is not None}

    def _image(self, sample: _Sample) -> TarMember | None:
        found = [suffix for suffix in sample if f".{suffix}" in IMAGE_LIKE]
        found = found or [suffix for suffix in sample if f".{suffix.rsplit('.', 1)[-1]}" in IMAGE_LIKE]
        if len(found) > 1:
            self._notes.warn("samples with several images (the first is taken)", sample[found[0]].name)
        return sample[found[0]] if found else None

    def _labels(self, shard: str, sample: _Sample) -> tuple[str, ...]:
        asked = self._label
        suffixes = [asked] if asked in sample else [s for s in _LABEL_FILES if s in sample]
        if asked is not None and asked not in _LABEL_FILES and asked not in sample:
            suffixes = [s for s in suffixes if s == "json"]
        self._seen += 1
        value = self._value(shard, sample, suffixes[0]) if suffixes else None
        self._found += value is not None
        if asked is not None and self._seen == _TRIED and not self._found:
            self._refuse_label()
        return self._names.labels(value, where=f"{shard}: {sample[suffixes[0]].name}" if suffixes else shard)

    def _refuse_label(self) -> None:
        raise UserError(
            f"no sample has {parameter('label_column')} {self._label!r}; "
            f"the JSON has {', '.join(map(shown, list(self._keys)[:10])) or 'no keys'}",
            hint="name one of them, or a suffix such as cls",
        )

    def _value(self, shard: str, sample: _Sample, suffix: str) -> Any:
        member = sample[suffix]
        try:
            if member.size > _LARGEST:
                raise ValueError("too large")
            text = self._reader.read(shard, member.offset, member.size).decode("utf-8-sig")
            if suffix == "txt":
                return [line.strip() for line in text.splitlines() if line.strip()] or None
            if suffix != "json":
                text = text.strip()
                return (json.loads(text) if text.startswith("[") else text) or None
            content = json.loads(text)
        except (ValueError, RecursionError, MemoryError):  # also of UTF-8, of JSON, and ours
            self._notes.warn("label files that cannot be read", member.name)
            return None
        if not isinstance(content, dict):
            return content if self._label is None else None
        if len(self._keys) < 100:
            self._keys.update(dict.fromkeys(content))
        wanted: Sequence[str] = _JSON_KEYS if self._label in (None, "json") else [str(self._label)]
        return next((content[key] for key in wanted if content.get(key) is not None), None)
