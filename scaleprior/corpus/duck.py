"""Connections to DuckDB, which sorts and joins what does not fit into memory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

__all__ = ["connect"]


def connect(spill: Path, file: str = ":memory:", *, memory_limit: str = "1GB") -> Any:
    """A connection that stays within ``memory_limit`` and spills what is more into the folder ``spill``."""
    import duckdb

    connection = duckdb.connect(file, config={"memory_limit": memory_limit, "temp_directory": str(spill)})
    # Its bar would go to standard output, among the results. In a notebook without ipywidgets there is none, and DuckDB
    # refuses to have it switched off.
    with contextlib.suppress(duckdb.InvalidInputException):
        connection.execute("SET enable_progress_bar = false")
    return connection
