"""The study's memory: one SQLite file for states and results, one folder a cell for everything else.

Only the runner writes here, one transaction a change; the processes that run cells write into their own folders
and are read from there. So a killed process of either kind leaves a consistent store.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleprior.errors import FailureError, UserError
from scaleprior.study.cells import Cell

__all__ = ["CellRecord", "StudyStore"]

_FILE = "study.sqlite"
_SCHEMA = "1"


@dataclass(frozen=True)
class CellRecord:
    """One row of the store.

    Attributes:
        state: ``pending``, ``running``, ``done`` or ``failed``.
        error: why the last attempt failed; empty otherwise.
        result: what the cell measured and what it cost; None until done.
    """

    key: str
    state: str
    error: str
    attempts: int
    result: dict[str, Any] | None


class StudyStore:
    """The store of the study in ``folder``; use as a context manager, or call :meth:`close`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._connection = connection

    @classmethod
    def create(cls, folder: Path, *, name: str, identity: str) -> StudyStore:
        """Open the store of this study in ``folder``, making it if the folder is new or empty.

        Args:
            identity: hash of what makes two runs the same study (its name and its data).

        Raises:
            UserError: the folder holds another study, or files that are no study.
        """
        if not (folder / _FILE).is_file():
            if folder.is_dir() and any(p.name != _FILE and not p.name.startswith(".") for p in folder.iterdir()):
                raise UserError(f"{folder} is not empty and holds no study", hint="choose another folder with --out")
            store = cls._connect(folder, make=True)
            with store._connection as c:
                c.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
                c.execute(
                    "CREATE TABLE IF NOT EXISTS cells (key TEXT PRIMARY KEY, state TEXT NOT NULL, error TEXT NOT NULL,"
                    " attempts INTEGER NOT NULL, result TEXT)"
                )
                c.executemany(
                    "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                    [("schema", _SCHEMA), ("name", name), ("identity", identity)],
                )
            return store
        store = cls.open(folder)
        if store.meta("identity") != identity:
            other = store.meta("name")
            store.close()
            raise UserError(
                f"{folder} holds another study ({other!r}, this one is {name!r}, or its data differ)",
                hint="choose another folder with --out",
            )
        return store

    @classmethod
    def open(cls, folder: Path) -> StudyStore:
        """Open an existing store.

        Raises:
            UserError: there is none, it is damaged, or of another version.
        """
        if not (folder / _FILE).is_file():
            raise UserError(f"no study in {folder} (no {_FILE})", hint="give the folder that `study run --out` wrote")
        store = cls._connect(folder, make=False)
        try:
            schema = store.meta("schema")
        except sqlite3.DatabaseError as e:
            store.close()
            raise UserError(f"{folder / _FILE} is damaged: {e}", hint="restore it or choose another --out") from e
        if schema != _SCHEMA:
            store.close()
            raise UserError(
                f"{folder / _FILE} has schema {schema}, this version reads {_SCHEMA}", hint="use a new --out"
            )
        return store

    @classmethod
    def _connect(cls, folder: Path, *, make: bool) -> StudyStore:
        try:
            if make:
                folder.mkdir(parents=True, exist_ok=True)
            return cls(folder, sqlite3.connect(folder / _FILE, timeout=30))
        except (OSError, sqlite3.OperationalError) as e:
            raise FailureError(f"cannot open {folder / _FILE}: {e}", hint="choose another --out") from e

    def __enter__(self) -> StudyStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the files stay."""
        self._connection.close()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runners out; the lock goes with the process, so a killed runner leaves none behind."""
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                owner = os.read(handle, 32).decode() or "unknown"
                raise UserError(
                    f"another run is at work in {self.folder} (process {owner})", hint="wait for it, or stop it"
                ) from e
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(handle)

    def meta(self, key: str) -> str | None:
        """A fact about the study; None if never set."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set_meta(self, key: str, value: str) -> None:
        """Set a fact about the study."""
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def add(self, cells: Sequence[Cell]) -> None:
        """Enter cells as pending; those already known stay as they are."""
        with self._connection as c:
            c.executemany(
                "INSERT OR IGNORE INTO cells VALUES (?, 'pending', '', 0, NULL)", [(cell.key,) for cell in cells]
            )

    def records(self) -> dict[str, CellRecord]:
        """Every cell ever entered, by key."""
        rows = self._connection.execute("SELECT key, state, error, attempts, result FROM cells").fetchall()
        return {r[0]: CellRecord(r[0], r[1], r[2], r[3], json.loads(r[4]) if r[4] else None) for r in rows}

    def start(self, key: str) -> None:
        """A cell begins (again)."""
        self._write("UPDATE cells SET state = 'running', error = '', attempts = attempts + 1 WHERE key = ?", (key,))

    def finish(self, key: str, result: dict[str, Any]) -> None:
        """A cell is done."""
        self._write("UPDATE cells SET state = 'done', error = '', result = ? WHERE key = ?", (json.dumps(result), key))

    def fail(self, key: str, error: str) -> None:
        """A cell failed; it is tried again by the next run."""
        self._write("UPDATE cells SET state = 'failed', error = ? WHERE key = ?", (error, key))

    def reset(self, key: str) -> None:
        """A cell was interrupted: nothing wrong with it, it goes on next time."""
        self._write("UPDATE cells SET state = 'pending' WHERE key = ?", (key,))

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            with self._connection as c:
                c.execute(statement, values)
        except sqlite3.OperationalError as e:
            raise FailureError(f"cannot write {self.folder / _FILE}: {e}", hint="free space and run again") from e
