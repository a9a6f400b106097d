"""From the names in a table to the images that are there.

A name that is a file's (or a tar member's) is taken as it is. Where some are not, all images that are there are listed
once, and a name means the only image whose path ends with it: with or without its suffix (``id_code`` tables), below
other folders (``train/``, ``images_001/images/``), below a folder called like the source (``CheXpert-v1.0-small/``), or
spelled in another way (``corpus.names``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaleprior.corpus.importers.tables.sql import text
from scaleprior.corpus.importers.tables.table import LabelTable
from scaleprior.corpus.magic import IMAGE_LIKE
from scaleprior.corpus.names import BACKSLASHES, NORMALISATION, difference
from scaleprior.corpus.notes import Notes
from scaleprior.errors import UserError
from scaleprior.wording import parameter, shown

__all__ = ["match_names"]

_SUFFIX = "(?i)(" + "|".join(suffix.replace(".", "\\.") for suffix in sorted(IMAGE_LIKE)) + ")$"
_PLAIN = r"nfc_normalize(regexp_replace(replace({0}, '\', '/'), '^(\./)+', ''))"  # names.plain in DuckDB's words
_KINDS = {
    f"{BACKSLASHES} (matched)": "spelled AND contains(file, '\\')",
    f"{NORMALISATION} (matched)": "spelled AND NOT contains(file, '\\')",
    "names without their image's suffix (matched)": "NOT spelled AND bare",
    "names of images in other folders (matched)": "NOT spelled AND moved",
}


def match_names(
    connection: Any,
    root: Path,
    table: LabelTable,
    notes: Notes,
    *,
    place: str,
    unreadable: Mapping[str, str] | None = None,
) -> None:
    """Make the table ``matched`` (name, labels, absent): one row for each image.

    Args:
        connection: holds ``labelled`` (file, labels, absent), rows of ``table``, and ``members`` (name, ...), the
            images that are there.
        root: the source; the name of this folder may stand in front of names.
        place: where the members are not, for messages, such as "no tar of /data".
        unreadable: names that are there but cannot be read, and why, for messages.

    Raises:
        UserError: a name is no image's, or that of several; names a few.
    """
    connection.execute("CREATE TABLE exact AS SELECT file FROM labelled SEMI JOIN members ON file = name")
    connection.execute("CREATE TABLE unmatched AS SELECT file FROM labelled ANTI JOIN exact USING (file)")
    pairs = "SELECT file, file AS name FROM exact"
    if connection.execute("SELECT count(*) FROM unmatched").fetchone()[0]:
        _match_ends(connection, root)
        _refuse_ambiguous(connection, table.path)
        _refuse_missing(connection, table, notes, place, unreadable or {})
        for kind, condition in _KINDS.items():
            count, example = connection.execute(f"SELECT count(*), min(file) FROM ends WHERE {condition}").fetchone()
            if count:
                notes.warn(kind, example, count=count)
        pairs += " UNION ALL SELECT file, name FROM ends"
    connection.execute(
        "CREATE TABLE matched AS SELECT name, flatten(list(labels)) AS labels, flatten(list(absent)) AS absent "
        f"FROM labelled JOIN ({pairs}) USING (file) GROUP BY name"
    )


def _match_ends(connection: Any, root: Path) -> None:
    """Make ``ends``: the images whose paths end with an unmatched name, whole paths before parts of them."""
    path = f"{text(root.resolve().name + '/')} || {_PLAIN.format('name')}"
    connection.execute(
        "CREATE TABLE tails AS WITH "
        f"paths AS (SELECT name, string_split({path}, '/') AS parts FROM (SELECT DISTINCT name FROM members)), "
        "cut AS (SELECT name, parts, unnest(generate_series(1, len(parts))) AS k FROM paths), "
        "whole AS (SELECT name, k, array_to_string(parts[k:], '/') AS tail FROM cut) "
        "SELECT name, tail, k = 2 AS spelled, false AS bare FROM whole UNION ALL "
        f"SELECT name, regexp_replace(tail, {text(_SUFFIX)}, ''), false, true FROM whole "
        f"WHERE regexp_matches(tail, {text(_SUFFIX)})"
    )
    connection.execute(
        "CREATE TABLE ends AS WITH "
        "pairs AS (SELECT file, name, bool_or(spelled) AS spelled, bool_and(bare) AS bare "
        f"FROM unmatched JOIN tails ON {_PLAIN.format('file')} = tail GROUP BY file, name) "
        "SELECT *, len(string_split(name, '/')) > len(string_split(file, '/')) AS moved FROM pairs "
        "QUALIFY spelled = bool_or(spelled) OVER (PARTITION BY file)"
    )


def _refuse_ambiguous(connection: Any, table: Path) -> None:
    row = connection.execute(
        "SELECT file, list_sort(list(name))[:3], count(*) OVER () FROM ends GROUP BY file HAVING count(*) > 1 "
        "ORDER BY file LIMIT 1"
    ).fetchone()
    if row:
        file, names, count = row
        more = f", and {count - 1:,} more names have several images" if count > 1 else ""
        raise UserError(
            f"{table}: {shown(file)} may be {' or '.join(map(shown, names))}{more}",
            hint="write their paths from the source folder on into the table",
        )


def _refuse_missing(
    connection: Any, table: LabelTable, notes: Notes, place: str, unreadable: Mapping[str, str]
) -> None:
    missing = "FROM unmatched ANTI JOIN ends USING (file)"
    count = connection.execute(f"SELECT count(*) {missing}").fetchone()[0]
    if not count:
        return
    names = [row[0] for row in connection.execute(f"SELECT file {missing} ORDER BY file LIMIT 3").fetchall()]
    if table.options.skip_missing:
        notes.warn("images of the table that are not there (left out)", names[0], count=count)
        return
    known = next((f"{unreadable[name]}: {name!r}" for name in names if name in unreadable), "")
    other = connection.execute(
        f"SELECT name FROM members WHERE lower({_PLAIN.format('name')}) = lower({_PLAIN.format('?')}) LIMIT 1",
        names[:1],
    ).fetchone()
    example = connection.execute("SELECT min(name) FROM members").fetchone()[0]
    inside = f"; images there are called like {shown(example)}" if example else ""
    if other:
        inside = f"; there is {other[0]!r} ({difference(names[0], other[0])})"
    if known:
        inside = f"; there are {known}"
    raise UserError(
        f"{table.path} names {'an image that is' if count == 1 else f'{count:,} images that are'} in {place}, such as "
        f"{', '.join(map(shown, names))}{inside}",
        hint=f"add what is missing, correct the names, select rows with {parameter('split')}, or leave these rows out "
        f"with {parameter('skip_missing', True)}",
    )
