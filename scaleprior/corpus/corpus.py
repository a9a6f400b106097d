"""An opened corpus: an index on disk whose prefixes are the fractions.

Opening reads ``corpus.json`` (or a saved fraction's Parquet footer) and no rows, so it costs the same for any size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.corpus.facts import checked_facts
from scaleprior.corpus.fraction import FACTS_KEY, LABEL_SPACE_KEY, Fraction
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.errors import UserError
from scaleprior.parsing import parse_json, read_json
from scaleprior.progress import ProgressFn, watched

if TYPE_CHECKING:
    from scaleprior.checking import CheckReport
    from scaleprior.corpus.importers.doubts import Answer
    from scaleprior.corpus.index import ImageRow
    from scaleprior.corpus.views.statistics import CorpusStatistics

__all__ = ["Corpus", "build_index"]


class Corpus:
    """Images in hash order with their labels. ``len(corpus)`` is the number of images.

    Attributes:
        path: the index folder, or a saved fraction's file.
        name: for people.
        fingerprint: SHA-256 (hex) of salt, label space and all rows; equal for equal content on every machine.
        root: folder that shards and paths are relative to.
        facts: the content of ``corpus.json``.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], *, root: str | Path | None = None) -> None:
        self.path = path
        self.facts: dict[str, Any] = dict(facts)
        self.name: str = facts["name"]
        self.fingerprint: str = facts["fingerprint"]
        recorded = path if facts["root"] == "." else Path(facts["root"])
        self.root: Path = Path(root) if root is not None else recorded

    @classmethod
    def open(cls, path: str | Path, *, root: str | Path | None = None) -> Corpus:
        """Open an index folder, or a Parquet file written by ``Fraction.save``.

        Args:
            path: the folder or file.
            root: where the images are now, if they have moved since the index was built.

        Raises:
            UserError: not an index, a damaged one, or one of another schema version.
        """
        path = Path(path)
        facts = read_json(path / "corpus.json", what="corpus index") if path.is_dir() else _footer(path, FACTS_KEY)
        return cls(path.absolute(), checked_facts(facts, where=str(path)), root=root)

    @classmethod
    def build(
        cls,
        source: str | Path,
        out: str | Path,
        *,
        labels: str | Path | None = None,
        hierarchy: str | Path | None = None,
        descriptions: str | Path | None = None,
        file_column: str | None = None,
        label_column: str | Sequence[str] | None = None,
        split: str | None = None,
        split_column: str = "split",
        separator: str | None = None,
        missing: str | Sequence[str] | None = None,
        confidence_column: str | None = None,
        min_confidence: float | None = None,
        uncertain: str | None = None,
        encoding: str | None = None,
        skip_missing: bool = False,
        class_names: str | Path | None = None,
        name: str | None = None,
        salt: str = "",
        verify: bool = True,
        strict: bool = False,
        max_skipped: float = 0.05,
        overwrite: bool = False,
        yes: bool | Answer = False,
        progress: ProgressFn | bool | None = False,
    ) -> Corpus:
        """Index a collection of labelled images into the folder ``out``, and open it.

        Args:
            source: class folders, tars or images with a table of labels, WebDataset shards, tars of classes, or Hugging
                Face's Parquet files; a folder, a file or a pattern of files.
            labels, hierarchy, descriptions, split, split_column, class_names: see ``importers.open_source``.
            file_column, label_column: columns of names and of labels; each of several label columns is a label.
            separator: text between the labels of a cell; "" for one label a cell.
            missing: what a cell says that has no label, beside empty ones.
            confidence_column, min_confidence: of a table with a row a label, "" for no such column; from which
                confidence on, in (0, 1], a label is present. 0 is absent.
            uncertain: what -1 in a label's own column is: "ignore" (unknown, the default), "positive" or "negative".
            encoding: of a CSV table that is not UTF-8.
            skip_missing: leave out rows whose image is not there.
            name: for people; by default the name of ``out``.
            salt: of the hash order; another salt gives other fractions.
            verify: decode every image; those that fail are skipped, counted and listed.
            strict: files that are out of order without harm to their pixels fail, too; otherwise they are read, counted
                and named in ``corpus.json``.
            max_skipped: largest accepted share of skipped images, in [0, 1].
            overwrite: replace an existing index once the new one is complete.
            yes: True: what is doubtful about the source is meant; a function is asked about each doubt.
            progress: True for a bar on the terminal; or a function that is called with (images done, images in all,
                {"skipped": ...}).

        Raises:
            UserError: a source that is not there, does not hold together, or may not be meant as it would be read; too
                many unreadable images; ``out`` exists.
            FailureError: disk full or another error of the file system.
        """
        from scaleprior.corpus.importers import open_source
        from scaleprior.corpus.importers.doubts import settle
        from scaleprior.corpus.staging import refuse_existing

        refuse_existing(Path(out), "corpus.json", overwrite)  # before anything is read or asked
        opened = open_source(
            source,
            labels=labels,
            hierarchy=hierarchy,
            descriptions=descriptions,
            file_column=file_column,
            label_column=label_column,
            split=split,
            split_column=split_column,
            separator=separator,
            missing=missing,
            confidence_column=confidence_column,
            min_confidence=min_confidence,
            uncertain=uncertain,
            encoding=encoding,
            skip_missing=skip_missing,
            class_names=class_names,
            verified=verify,
            progress=progress is True,
        )
        settle(opened.doubts, yes)
        with watched(progress, f"indexing {source}", unit="images") as report:
            return build_index(
                opened.unpack or opened.rows(),
                out,
                overwrite=overwrite,
                label_space=opened.label_space,
                # "." is the index's own folder, where images that have to be written out go
                root="." if opened.unpack else opened.root.absolute(),
                name=name or Path(out).name,
                salt=salt,
                source={"kind": opened.kind, **opened.facts},
                verify=verify,
                strict=strict,
                max_skipped=max_skipped,
                total=opened.total,
                notes=opened.notes,
                progress=report,
            )

    @property
    def upright(self) -> bool:
        """Whether images are turned as EXIF says; those of an index from before that was done are read as stored."""
        return self.facts.get("orientation") == "applied"

    @property
    def parquet(self) -> Path:
        """The file that holds the rows."""
        return self.path / "index.parquet" if self.path.is_dir() else self.path

    @property
    def label_space(self) -> LabelSpace:
        """What the labels mean."""
        return self._label_space

    @cached_property
    def _label_space(self) -> LabelSpace:
        if self.path.is_dir():
            space = LabelSpace.load(self.path / "label_space.json")
        else:
            space = LabelSpace.from_dict(_footer(self.path, LABEL_SPACE_KEY), where=str(self.path))
        if len(space) != self.facts["label_space"]["nodes"]:
            raise UserError(
                f"the label space of {self.path} has {len(space):,} nodes, indexed were "
                f"{self.facts['label_space']['nodes']:,}",
                hint="build the index again",
            )
        return space

    def __len__(self) -> int:
        return int(self.facts["images"])

    def __repr__(self) -> str:
        return f"Corpus({self.name!r}, {len(self)} images)"

    def fraction(self, *, images: int | None = None, ratio: float | None = None) -> Fraction:
        """The first images in hash order. Of two fractions of a corpus the smaller is a prefix of the larger.

        Args:
            images: how many, 1 to ``len(self)``.
            ratio: instead, the share of the corpus in (0, 1]; the count is rounded to the nearest image.

        Raises:
            UserError: neither or both given, or the fraction would be empty or larger than the corpus.
        """
        if (images is None) == (ratio is None):
            raise UserError("a fraction needs either a number of images or a ratio", hint="give exactly one of them")
        asked = f"{images} images" if images is not None else f"ratio {ratio}"
        if ratio is not None:
            if not 0 < ratio <= 1:
                raise UserError(f"a fraction of {asked} of {self.name!r}", hint="give a ratio above 0, at most 1")
            images = round(ratio * len(self))
        assert images is not None
        if isinstance(images, bool) or int(images) != images or not 1 <= images <= len(self):
            raise UserError(
                f"a fraction of {asked} does not fit corpus {self.name!r} of {len(self)} images",
                hint=f"ask for 1 to {len(self)} images",
            )
        return Fraction(self, int(images))

    def statistics(
        self, *, images: int | None = None, sample: int | None = 1000, progress: ProgressFn | bool | None = False
    ) -> CorpusStatistics:
        """Labels with counts, the long tail, what the hierarchy adds, bytes, formats and sizes; a notebook shows them.

        Args:
            images: of the first so many in hash order; by default of all.
            sample: of how many images the headers are read, for formats and sizes: the first in hash order, which are a
                random sample. None for all, 0 for none.
            progress: True for a bar on the terminal; or a function that is called with (headers read, in all, {}).

        Raises:
            UserError: a number that does not fit. Images that are not where the index says are counted, not refused.
        """
        from scaleprior.corpus.views.statistics import corpus_statistics

        fraction = self.fraction(images=len(self) if images is None else images)
        with watched(progress, "reading headers", unit="images") as report:
            return corpus_statistics(fraction, sample=sample, progress=report)

    def verify(self, *, progress: ProgressFn | bool | None = False) -> CheckReport:
        """Whether all rows are those that were indexed, and the bytes of all images; every image is read.

        Training holds the rows against the fingerprint once, and each image against its checksum when it reads it.

        Args:
            progress: True for a bar on the terminal; or a function that is called with (images done, in all, {}).

        Returns:
            What was found: ``ok``, ``facts`` and ``findings``. An index from before there were checksums, or one that
            was built without decoding, has its rows checked and its files looked for.
        """
        from scaleprior.corpus.check import verify_corpus

        with watched(progress, "verifying", unit="images") as report:
            return verify_corpus(self.fraction(images=len(self)), progress=report)

    def write_page(self, path: str | Path, statistics: CorpusStatistics | None = None) -> Path:
        """Write a page for a browser, one file: the tail, the labels, sample images of each, sizes.

        Args:
            statistics: what :meth:`statistics` gave, of all images or of the first; by default of all.

        Returns:
            ``path``.
        """
        from scaleprior.corpus.views.page import corpus_page
        from scaleprior.files import write_text

        statistics = statistics or self.statistics()
        write_text(path, corpus_page(self.fraction(images=statistics.images), statistics))
        return Path(path)

    def export(
        self,
        out: str | Path,
        *,
        format: str = "fiftyone",
        images: int | None = None,
        copy: bool = False,
        overwrite: bool = False,
        progress: ProgressFn | bool | None = False,
    ) -> Path:
        """Write a folder that another tool opens, with each image's labels, key and rank in hash order.

        Args:
            out: the new folder; complete or not at all.
            format: ``fiftyone``, which ``fo.Dataset.from_dir(out, fo.types.FiftyOneDataset)`` imports.
            images: the first so many in hash order; by default all.
            copy: also copy images that are plain files; otherwise they are named by their full paths. Images inside
                tars are written into the folder in any case.
            overwrite: replace an earlier export.
            progress: True for a bar on the terminal; or a function that is called with (images done, in all, {}).

        Returns:
            ``out``.

        Raises:
            UserError: ``out`` exists, an image is gone, or an unknown format.
            FailureError: disk full.
        """
        from scaleprior.corpus.views.export import check_format, export_fiftyone

        check_format(format)
        fraction = self.fraction(images=len(self) if images is None else images)
        with watched(progress, "exporting", unit="images") as report:
            export_fiftyone(fraction, out, copy=copy, overwrite=overwrite, progress=report)
        return Path(out)

    def prefix_fingerprint(self, images: int) -> str:
        """Identity of the first ``images`` rows; the same whether asked of the corpus or of a saved fraction of it."""
        whole, count = self.facts.get("prefix_of", (self.fingerprint, len(self)))
        if images == count:
            return str(whole)
        return hashlib.sha256(f"{whole}:{images}".encode()).hexdigest()


def build_index(
    rows: Iterable[ImageRow] | Callable[[Path], Iterable[ImageRow]],
    out: str | Path,
    *,
    overwrite: bool = False,
    **options: Any,
) -> Corpus:
    """Build the index folder ``out`` from rows; it appears complete or not at all.

    Args:
        rows: in any order; the result does not depend on it. A function is given the folder in the making, to write the
            rows' images into it first (with ``root="."``).
        out: the new folder.
        overwrite: replace an existing index once the new one is complete.
        options: those of ``index.write_index``.

    Raises:
        UserError: as ``write_index``; or ``out`` exists.
        FailureError: disk full or another error of the file system.
    """
    from scaleprior.corpus.index import write_index
    from scaleprior.corpus.staging import staged_folder

    with staged_folder(out, marker="corpus.json", overwrite=overwrite) as folder:
        options.setdefault("name", Path(out).name)
        write_index(rows(folder) if callable(rows) else rows, folder, **options)
    return Corpus.open(out)


def _footer(path: Path, key: bytes) -> Any:
    from scaleprior.corpus.parquet_files import read_footer

    if not path.exists():
        raise UserError(f"no corpus index at {path}", hint="build one with: scaleprior corpus build SRC OUT")
    footer = read_footer(path, said=f"{path} is not a Parquet file", hint="give an index folder or a saved fraction")
    metadata = footer.metadata or {}
    if key not in metadata:
        raise UserError(f"{path} is not a saved fraction", hint="write one with: scaleprior corpus fraction --out FILE")
    return parse_json(metadata[key], where=f"the {key.decode().rpartition('.')[2]} in {path}")
