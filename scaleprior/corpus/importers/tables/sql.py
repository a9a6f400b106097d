"""DuckDB as the reader of tables: its errors in our words, and text made safe for SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from scaleprior.errors import FailureError, UserError

__all__ = ["name", "run", "text"]

_REASON = 300  # characters of a reason that DuckDB gives; it quotes whole lines
_QUOTED = 120  # characters of each of its lines


def run(connection: Any, sql: str, where: Path) -> Any:
    """Execute ``sql``, which reads the table ``where``.

    Raises:
        UserError: the table is damaged; names it and the first line of the reason.
        FailureError: no memory, or no space in the temporary folder.
    """
    try:
        return connection.execute(sql)
    except duckdb.Error as e:
        lines = [line.strip() for line in str(e).split("Possible fixes")[0].splitlines() if line.strip()]
        said = lines if len(lines) <= 3 else [*lines[:2], lines[-1]]  # place, line, what is wrong with it
        quoted = [line if len(line) <= _QUOTED else f"{line[:_QUOTED]}..." for line in said]
        reason = "; ".join(quoted)
        reason = reason if len(reason) <= _REASON else reason[:_REASON] + "..."
        if isinstance(e, duckdb.OutOfMemoryException) or "space left" in str(e):
            raise FailureError(f"reading {where} failed: {reason}", hint="free space in the temporary folder") from e
        raise UserError(f"{where} cannot be read as a table: {reason}", hint="repair the file") from e


def name(column: str) -> str:
    """A column's name, quoted."""
    return '"' + column.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string, quoted."""
    return "'" + value.replace("'", "''") + "'"
