"""Connections to DuckDB, which sorts and joins what does not fit into memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaleprior.errors import FailureError

__all__ = ["connect", "scratch_database"]


def connect(spill: Path, file: str = ":memory:", *, memory_limit: str = "1GB") -> Any:
    """A connection that stays within ``memory_limit`` and spills what is more into the folder ``spill``."""
    import duckdb

    connection = duckdb.connect(file, config={"memory_limit": memory_limit, "temp_directory": str(spill)})
    # Its bar would go to standard output, among the results. In a notebook without ipywidgets there is none, and DuckDB
    # refuses to have it switched off.
    with contextlib.suppress(duckdb.InvalidInputException):
        connection.execute("SET enable_progress_bar = false")
    return connection


@contextlib.contextmanager
def scratch_database(what: str) -> Iterator[Any]:
    """A connection to a database in a temporary folder, which goes at the end of the block.

    Args:
        what: is done with it, for the message.

    Raises:
        FailureError: DuckDB fails within the block.
    """
    import duckdb

    with (
        tempfile.TemporaryDirectory(prefix="scaleprior-") as folder,
        connect(Path(folder) / "spill", f"{folder}/rows.duckdb") as connection,
    ):
        try:
            yield connection
        except duckdb.Error as e:
            raise FailureError(f"{what} failed: {e}", hint="check the temporary folder") from e
