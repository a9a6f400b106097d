"""A study's folder, which is all the memory it has::

    study.json          the study: name, fingerprint, engine, facts and the cells of its newest plan
    .lock               held by the runner at work; the system lets go of it when that process ends, however it ends
    cells/NAME/
        cell.json       what the process that runs the cell has to know
        running         the cell was begun; true while a runner holds the lock, left over otherwise
        progress.json   how far it is
        sharing.json    where it runs, and with how many; memory.json: what it takes of its GPU
        result.json     what it measured: it is done
        error.json      why its last attempt failed

Every file is written whole under a temporary name and renamed, by one process alone: ``study.json``, ``running`` and
``sharing.json`` by the runner, the others by the cell's own process. So a kill of either at any moment leaves a folder
that says the truth, and a cell whose folder is removed is one that has not been run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaleprior.errors import FailureError, UserError
from scaleprior.files import write_json
from scaleprior.parsing import read_json
from scaleprior.study.cell import Cell
from scaleprior.wording import parameter

__all__ = ["StudyFolder", "StudyRecord"]

_FILE, _LOCK, _SCHEMA = "study.json", ".lock", 1
_EARLIER = "study.sqlite"  # where versions up to 0.1 kept states and results


@dataclass(frozen=True)
class StudyRecord:
    """What ``study.json`` says.

    Attributes:
        fingerprint: hash of what makes two runs the same study.
        engine: the one that its first plan was made for; "" before that.
        facts: what the report shows of settings and data, and the ``command`` that runs the study again.
        cells: of the newest plan, in its order.
    """

    name: str
    fingerprint: str
    engine: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    cells: tuple[Cell, ...] = ()


class StudyFolder:
    """The folder ``path``; reading needs no lock, only :meth:`claim` lets write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cell(self, cell: Cell) -> Path:
        """The folder of one cell; as other processes see it, wherever they work.

        A cell that was done under another name of its arm, or before the study had arms, keeps the folder of then: its
        key says that it is the same.
        """
        cells = self.path.absolute() / "cells"
        own = cells / cell.folder_name
        if own.is_dir() or not cells.is_dir():
            return own
        first, last = f"{cell.arch}-{cell.images or 'scratch'}-", f"-seed{cell.seed}-{cell.key[:8]}"
        return next((cells / n for n in sorted(os.listdir(cells)) if n.startswith(first) and n.endswith(last)), own)

    def read(self) -> StudyRecord:
        """Read ``study.json``.

        Raises:
            UserError: there is none, it is damaged, or of another version.
        """
        path = self.path / _FILE
        if not path.is_file():
            raise self._absent()
        raw = read_json(path, what="study description")
        schema = raw.pop("schema", None) if isinstance(raw, dict) else None
        if schema != _SCHEMA:
            raise UserError(
                f"{path} has schema {schema}, this version reads {_SCHEMA}", hint=f"use a new {parameter('out')}"
            )
        try:
            return StudyRecord(**{**raw, "cells": tuple(Cell.from_dict(cell) for cell in raw["cells"])})
        except (KeyError, TypeError) as e:
            raise UserError(f"{path} is damaged: {e}", hint=f"restore it or choose another {parameter('out')}") from e

    def write(self, record: StudyRecord) -> None:
        """Replace ``study.json``; under :meth:`claim` only."""
        raw = {
            "schema": _SCHEMA,
            "name": record.name,
            "fingerprint": record.fingerprint,
            "engine": record.engine,
            "facts": dict(record.facts),
            "cells": [cell.to_dict() for cell in record.cells],
        }
        write_json(self.path / _FILE, raw)

    @contextlib.contextmanager
    def claim(self, *, name: str, fingerprint: str) -> Iterator[StudyRecord]:
        """Hold the folder for a runner of this study, making it if it is new or empty; yields what it says already.

        Raises:
            UserError: the folder holds another study, or files that are no study, or another runner is at work.
        """
        if not any((self.path / known).is_file() for known in (_FILE, _EARLIER)) and self._foreign():
            raise UserError(
                f"{self.path} is not empty and holds no study", hint=f"choose another folder with {parameter('out')}"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as e:
            raise FailureError(
                f"cannot write {self.path}: {e.strerror or e}", hint=f"choose another {parameter('out')}"
            ) from e
        try:
            self._lock(handle)
            record = self._known(name, fingerprint)
            if record.fingerprint != fingerprint:
                raise UserError(
                    f"{self.path} holds another study ({record.name!r}, this one is {name!r}, or its data differ)",
                    hint=f"choose another folder with {parameter('out')}",
                )
            self.write(record)
            yield record
        finally:
            os.close(handle)

    def share_backbones(self, other: Path) -> None:
        """Have ``pretrained`` lead to that of another study, in which both find what either pretrains.

        Raises:
            UserError: this study has backbones of its own already, or shares those of a third.
            FailureError: the file system takes no link.
        """
        link, place = self.path / "pretrained", (other / "pretrained").resolve()
        if link.resolve() == place:
            return
        if link.is_symlink() or (link.is_dir() and any(link.iterdir())):
            raise UserError(
                f"{self.path} has backbones already, other ones than {place}",
                hint=f"leave out {parameter('backbones_of', other)}, or choose another {parameter('out')}",
            )
        try:
            if link.is_dir():
                link.rmdir()
            link.symlink_to(place, target_is_directory=True)
        except OSError as e:
            raise FailureError(
                f"cannot link {link} to {place}: {e.strerror or e}",
                hint=f"leave out {parameter('backbones_of', other)}",
            ) from e

    def busy(self) -> bool:
        """Whether a runner is at work, of this or of another process."""
        try:
            handle = os.open(self.path / _LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def _absent(self) -> UserError:
        if (self.path / _EARLIER).is_file():
            command = json.loads(_earlier(self.path).get("facts", "{}")).get("command", "`scaleprior study run`")
            message = f"{self.path} was written by an earlier version of ScalePrior"
            return UserError(message, hint=f"run the study once more, which keeps its finished cells: {command}")
        message = f"no study in {self.path} (no {_FILE})"
        return UserError(message, hint=f"give the folder that its run had as {parameter('out')}")

    def _foreign(self) -> bool:
        return self.path.is_dir() and any(not p.name.startswith(".") for p in self.path.iterdir())

    def _lock(self, handle: int) -> None:
        for patience in (0.2, 0.0):  # seconds: somebody who asks whether we are busy holds the lock for an instant
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
                return
            time.sleep(patience)
        owner = os.pread(handle, 32, 0).decode() or "unknown"
        raise UserError(f"another run is at work in {self.path} (process {owner})", hint="wait for it, or stop it")

    def _known(self, name: str, fingerprint: str) -> StudyRecord:
        if (self.path / _FILE).is_file():
            return self.read()
        if (self.path / _EARLIER).is_file():  # its finished cells are found in their folders
            facts = _earlier(self.path)
            return StudyRecord(facts["name"], facts["identity"], facts.get("engine", ""))
        return StudyRecord(name, fingerprint)


def _earlier(folder: Path) -> dict[str, str]:
    """Name, fingerprint (by its name of then, identity), engine and more of a study that an earlier version began.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / _EARLIER
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return dict(connection.execute("SELECT key, value FROM meta"))
    except sqlite3.DatabaseError as e:
        raise UserError(f"{path} is damaged: {e}", hint=f"restore it or choose another {parameter('out')}") from e
