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
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaleprior.errors import FailureError, UserError
from scaleprior.files import make_folder, write_json
from scaleprior.locks import open_lock
from scaleprior.parsing import is_regular, parse_json, read_json
from scaleprior.study.cell import Cell
from scaleprior.study.fields import Fields
from scaleprior.study.helper_files import say_once
from scaleprior.wording import parameter, shown

__all__ = ["StudyFolder", "StudyRecord"]

_FILE, _LOCK, _SCHEMA = "study.json", ".lock", 1
_EARLIER = "study.sqlite"  # where versions up to 0.1 kept states and results
_PATIENCE = 1.0  # seconds, with somebody who writes it


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
        try:
            raw = read_json(path, what="study description")
        except UserError as e:
            if isinstance(e.__cause__, (FileNotFoundError, NotADirectoryError)):
                raise self._absent() from e
            raise
        schema = raw.get("schema") if isinstance(raw, dict) else None
        if schema != _SCHEMA:
            raise UserError(
                f"{path} has schema {shown(schema)}, this version reads {_SCHEMA}", hint=f"use a new {parameter('out')}"
            )
        hint = _restore()
        own = Fields(raw, where=str(path), hint=hint)
        own.only(("schema", "name", "fingerprint", "engine", "facts", "cells"))
        return StudyRecord(
            name=own.text("name"),
            fingerprint=own.text("fingerprint"),
            engine=own.text("engine"),
            facts=own.facts("facts"),
            cells=tuple(
                Cell.from_dict(cell, where=f"{path}: cell {n}", hint=hint)
                for n, cell in enumerate(own.items("cells"), 1)
            ),
        )

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
        try:
            if not any(is_regular(self.path / known) for known in (_FILE, _EARLIER)) and self._foreign():
                raise UserError(
                    f"{self.path} is not empty and holds no study",
                    hint=f"choose another folder with {parameter('out')}",
                )
            make_folder(self.path)
            handle = open_lock(self.path / _LOCK)
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
        path = self.path / _LOCK
        try:
            handle = open_lock(path, make=False)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            finally:
                os.close(handle)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        except OSError as e:  # of somebody else, or no file
            say_once(f"{path} does not say whether a run is at work: {e.strerror or e}")
        return False

    def _absent(self) -> UserError:
        if is_regular(self.path / _EARLIER):
            said = _earlier(self.path).get("facts", "{}")
            facts = parse_json(said, where=f"{self.path / _EARLIER}: facts")
            command = facts.get("command") if isinstance(facts, dict) else None
            command = command if isinstance(command, str) else "`scaleprior study run`"
            message = f"{self.path} was written by an earlier version of ScalePrior"
            return UserError(message, hint=f"run the study once more, which keeps its finished cells: {command}")
        message = f"no study in {self.path} (no {_FILE})"
        return UserError(message, hint=f"give the folder that its run had as {parameter('out')}")

    def _foreign(self) -> bool:
        return self.path.is_dir() and any(not p.name.startswith(".") for p in self.path.iterdir())

    def _lock(self, handle: int) -> None:
        for patience in (0.2, 0.0):  # seconds: somebody who asks whether we are busy holds the lock for an instant
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(patience)
                continue
            except OSError as e:
                raise FailureError(
                    f"cannot lock {self.path / _LOCK}: {e.strerror or e}", hint=f"choose another {parameter('out')}"
                ) from e
            with contextlib.suppress(OSError):  # a full disk; it is for people
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
            return
        said = os.pread(handle, 32, 0).decode("ascii", "replace")
        owner = said if said.isdecimal() else "unknown"
        raise UserError(f"another run is at work in {self.path} (process {owner})", hint="wait for it, or stop it")

    def _known(self, name: str, fingerprint: str) -> StudyRecord:
        if os.path.lexists(self.path / _FILE):
            return self.read()
        if is_regular(self.path / _EARLIER):  # its finished cells are found in their folders
            facts = _earlier(self.path)
            if missing := [word for word in ("name", "identity") if word not in facts]:
                raise UserError(f"{self.path / _EARLIER} is damaged: it has no {missing[0]}", hint=_restore())
            return StudyRecord(facts["name"], facts["identity"], facts.get("engine", ""))
        return StudyRecord(name, fingerprint)


def _restore() -> str:
    return f"restore it or choose another {parameter('out')}"


def _earlier(folder: Path) -> dict[str, str]:
    """Name, fingerprint (by its name of then, identity), engine and more of a study that an earlier version began.

    Raises:
        UserError: the file is damaged, or cannot be read.
        FailureError: somebody is writing it.
    """
    path = folder / _EARLIER
    try:
        place = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(place, uri=True, timeout=_PATIENCE)) as connection:
            known = dict(connection.execute("SELECT key, value FROM meta"))
    except sqlite3.DatabaseError as e:
        if "locked" in str(e):
            raise FailureError(f"{path} is in use: {e}", hint="wait for the run that writes it, or stop it") from e
        if "unable to open" in str(e):
            raise UserError(f"{path} cannot be read: {e}", hint="check the file") from e
        raise UserError(f"{path} is damaged: {e}", hint=_restore()) from e
    if not all(isinstance(word, str) for pair in known.items() for word in pair):
        raise UserError(f"{path} is damaged: it holds {shown(known)}", hint=_restore())
    return known
