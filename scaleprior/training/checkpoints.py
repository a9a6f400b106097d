"""The last checkpoints of a run in its folder: a new one is on the disk before an old one goes.

Each is a file of ``training.checkpoint`` whose name carries the step, ``checkpoint_0000012.safetensors``. A kill or a
power cut at any instruction leaves at least one whole one; one that is damaged all the same, by a disk or by a copy, is
passed over for the one before it, and where none is whole the run begins anew. Earlier versions kept one file,
``checkpoint.safetensors``, which counts as oldest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scaleprior.errors import FailureError
from scaleprior.files import WriteError
from scaleprior.training.checkpoint import DamagedCheckpoint, load_checkpoint, save_checkpoint
from scaleprior.wording import parameter

__all__ = ["KEPT", "Checkpoints", "SavedState"]

logger = logging.getLogger(__name__)

KEPT = 2
"""How many a run keeps that is not told otherwise."""

_NAME = re.compile(r"checkpoint(?:_(\d{7,}))?\.safetensors")


class SavedState(NamedTuple):
    """What a run goes on from.

    Attributes:
        path: the checkpoint. state: what is in it.
    """

    path: Path
    state: dict[Any, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: of the run; it need not exist before the first is saved.
        keep: how many, at least 1.
    """

    def __init__(self, folder: Path, *, keep: int = KEPT) -> None:
        assert keep >= 1, "a run that keeps no checkpoint cannot be resumed"
        self.folder = folder
        self.keep = keep
        self._damaged: list[Path] = []  # passed over by load; they go when there is a newer one
        self._told = False  # that the disk is full

    def paths(self) -> list[Path]:
        """Those that are there, the newest first.

        Raises:
            FailureError: the folder cannot be read now, and may hold some.
        """
        try:
            found = [self.folder / name for name in os.listdir(self.folder) if _NAME.fullmatch(name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as e:
            raise FailureError(f"cannot read {self.folder}: {e.strerror}", hint="mend that, and run again") from e
        return sorted(found, key=_step, reverse=True)

    def save(self, step: int, state: Mapping[Any, Any]) -> None:
        """Write the state after ``step`` steps, then remove what is beyond ``keep``, and what is of later steps: they
        are of a course that was given up.

        Where the disk is too full for one more, older ones give way until one is left.

        Raises:
            WriteError: there is no room even so, or the folder takes no files; says what is needed, and how to go on.
        """
        path = self.folder / f"checkpoint_{step:07d}.safetensors"
        self.making_room(lambda: save_checkpoint(path, dict(state)))
        known = self.paths()
        kept = [each for each in known if _step(each) <= step and (each == path or each not in self._damaged)]
        self._remove(each for each in known if each not in kept[: self.keep])
        self._damaged = []

    def load(self, *, tell: bool = True) -> SavedState | None:
        """The newest whole checkpoint; None where there is none. Nothing is written or removed.

        Args:
            tell: of damaged ones, each with what is wrong with it, in one warning; one process of several does.

        Raises:
            FailureError: one cannot be read now, for want of rights, descriptors or memory.
        """
        damaged: dict[Path, str] = {}
        for path in self.paths():
            try:
                state = load_checkpoint(path)
            except DamagedCheckpoint as e:
                damaged[path] = e.reason
                continue
            if damaged and tell:
                logger.warning("going on from %s, because %s", path, _said(damaged))
            self._damaged = list(damaged)
            return SavedState(path, state)
        if damaged and tell:
            logger.warning("beginning anew in %s, because %s", self.folder, _said(damaged))
        self._damaged = list(damaged)
        return None

    def remove(self) -> None:
        """Remove all: the run is finished, or begins anew."""
        self._remove(self.paths())

    def making_room(self, write: Callable[[], object]) -> None:
        """Call ``write``, again each time that an older checkpoint gave way because the disk is full.

        Raises:
            WriteError: there is no room even so, or the folder takes no files; says how to go on.
        """
        while True:
            try:
                write()
                return
            except WriteError as e:
                spare = self._spare() if e.full else None
                if spare is None:
                    raise self._with_way_on(e) from e
                level, self._told = logging.INFO if self._told else logging.WARNING, True
                logger.log(level, "%s; removing %s, an older checkpoint", e.what, spare)
                self._remove([spare])

    def _spare(self) -> Path | None:
        """A checkpoint that the run can go on without: a damaged one, or the oldest where the newest can be read."""
        known = self.paths()
        damaged = [path for path in known if path in self._damaged]
        if damaged or len(known) < 2:
            return damaged[0] if damaged else None
        try:
            load_checkpoint(known[0])
        except (DamagedCheckpoint, FailureError):
            return None
        return known[-1]

    @contextlib.contextmanager
    def way_on(self) -> Iterator[None]:
        """Around writing what cannot be tried again.

        Raises:
            WriteError: with how to go on.
        """
        try:
            yield
        except WriteError as e:
            raise self._with_way_on(e) from e

    def _with_way_on(self, error: WriteError) -> WriteError:
        known = [path for path in self.paths() if path not in self._damaged]
        start = f"from {known[0].name}, which is whole" if known else "from the start"
        first = "free space" if error.full else "mend that"
        return WriteError(error.what, hint=f"{first} and go on with {parameter('resume', True)}, {start}")

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as e:
                raise FailureError(f"cannot remove {path}: {e.strerror or e}", hint="see whose file it is") from e


def _step(path: Path) -> int:
    """-1 for the one file of earlier versions."""
    found = _NAME.fullmatch(path.name)
    return -1 if found is None or found[1] is None else int(found[1])


def _said(damaged: Mapping[Path, str]) -> str:
    return ", and ".join(f"{path.name} is damaged: {reason}" for path, reason in damaged.items())
