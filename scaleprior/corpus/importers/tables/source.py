"""Open a table of labels with what lies beside it: its images as files or in tars, a hierarchy, names for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scaleprior.corpus.hierarchy_files import is_open_images, load_hierarchy, read_descriptions
from scaleprior.corpus.importers.doubts import NO_LABELS, alike, one_label
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.importers.tables.files import file_source, images_below
from scaleprior.corpus.importers.tables.options import TableOptions
from scaleprior.corpus.importers.tables.table import LabelTable
from scaleprior.corpus.importers.tars import tar_source
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.magic import unpacking
from scaleprior.errors import UserError
from scaleprior.wording import parameter, shown

__all__ = ["table_source"]


def table_source(
    root: Path,
    labels: str | Path,
    options: TableOptions,
    *,
    tars: Sequence[Path],
    packed: Sequence[Path],
    hierarchy: str | Path | None = None,
    descriptions: str | Path | None = None,
) -> Source:
    """Images below ``root``, in its tar files if it has any, with the labels of a table.

    Args:
        tars: the tar files. packed: compressed files, in which the images may be.
        hierarchy: file; by default ``hierarchy.json`` in ``root``, Open Images' own beside one of its tables, or none.
        descriptions: CSV of label and name; by default Open Images' own beside one of its tables, else none.

    Raises:
        UserError: what ``LabelTable`` refuses, a damaged hierarchy, labels that are not in it.
    """
    table = LabelTable(labels, options)
    places = list(dict.fromkeys((table.path.absolute().parent, root.absolute())))
    if hierarchy is None and (root / "hierarchy.json").is_file():
        hierarchy = root / "hierarchy.json"
    if table.columns.published == "Open Images":
        hierarchy = hierarchy or _only(places, "*hierarchy*.json", "hierarchy")
        descriptions = descriptions or _only(places, "*class-descriptions*.csv", "descriptions")
    if packed and not tars:
        _refuse_packed(root, table, packed[0])
    space = _label_space(table, hierarchy, descriptions)
    return tar_source(root, tars, table, space) if tars else file_source(root, table, space)


def _refuse_packed(root: Path, table: LabelTable, archive: Path) -> None:
    """A table whose images are not there, and an archive beside it: they are inside."""
    file = table.first_file()
    if not (root / file).exists() and next(images_below(root), None) is None:
        raise UserError(
            f"{table.path} names image {shown(file)}, which is not in {root}; {archive.name!r} there is compressed",
            hint=f"unpack it: {unpacking(archive)}",
        )


def _label_space(table: LabelTable, hierarchy: str | Path | None, descriptions: str | Path | None) -> LabelSpace:
    names = {} if descriptions is None else read_descriptions(descriptions)
    if hierarchy is None:
        found = table.distinct_labels()
        table.doubts += one_label(found, str(table.path), NO_LABELS) + alike(found, f"labels of {table.path}")
        return LabelSpace((label, names.get(label, label), ()) for label in found)
    data = load_hierarchy(hierarchy)
    if is_open_images(hierarchy):
        # it covers the labels of boxes alone; those of whole images, thirty times as many, are roots beside it
        outside = [label for label in table.distinct_labels() if label not in data["nodes"]]
        data["nodes"].update({label: {"name": label, "parents": []} for label in outside})
        if outside:
            table.count_also("labels outside the hierarchy (without parents)", len(outside), outside[0])
    space = LabelSpace.from_dict(data, where=str(hierarchy))
    if not names:
        return space
    above = ([space.ids[parent] for parent in parents] for parents in space.parents)
    nodes = ((node, names.get(node, name), ids) for node, name, ids in zip(space.ids, space.names, above))
    return LabelSpace(nodes, leaves=[space.ids[leaf] for leaf in space.leaves], where=str(hierarchy))


def _only(folders: list[Path], pattern: str, option: str) -> Path | None:
    """The file of this name in the folders; None if there is none."""
    found = sorted(file for folder in folders for file in folder.glob(pattern) if file.is_file())
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:3])
        raise UserError(f"{found[0].parent} holds several: {names}", hint=f"choose one with {parameter(option)}")
    return found[0] if found else None
