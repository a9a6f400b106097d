"""The folder of one run: ``run.json`` says which run it is, so that only that run is gone on with there.

Every stage that trains begins alike: work out the fingerprint of all that determines the run, hold it against the
folder, write ``run.json``, train. What marks a run as finished is the stage's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from scaleprior.errors import ScalePriorError, UserError
from scaleprior.files import WriteError, remove_leftovers, write_json
from scaleprior.parsing import parse_json, read_bytes
from scaleprior.training.differences import differing_parts
from scaleprior.training.extension import Extension, Schedule, extended_fingerprint, read_history
from scaleprior.wording import parameter, shown

__all__ = ["RUN_FILE", "DamagedRunFile", "RunFolder", "refuse_other_run", "restoring", "with_room", "with_way_on"]

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
E = TypeVar("E", bound=ScalePriorError)

_MADE_OF = "made_of"
_SUM = "sha256"  # of the rest
_OLD_NAMES = ("hash", "run_hash")  # what run.json and checkpoints called the fingerprint at first


class DamagedRunFile(UserError):
    """A ``run.json`` that is not as it was written: nothing in it can be trusted."""


@dataclass(frozen=True)
class RunFolder:
    """A folder, and the run that wants to use it.

    Attributes:
        out: the folder; it need not exist.
        identity: becomes ``run.json``; its "fingerprint" is the hash of all that determines the run.
        parts: what a fingerprint covers, for messages, e.g. "config, backbone or data".
        schedule: the keys that may be given anew for a run that is extended; empty where none can be.
        history: of a run that was extended.
        made_of: the parts themselves, as ``differing_parts`` takes them; ``run.json`` remembers them, to say which of
            another run's differ.
    """

    out: Path
    identity: Mapping[str, Any]
    parts: str
    schedule: Schedule | None = None
    history: tuple[Extension, ...] = ()
    made_of: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of all that determines the run, its history included."""
        return extended_fingerprint(self.identity["fingerprint"], self.history)

    def found(self) -> dict[str, Any] | None:
        """The ``run.json`` of an earlier start of this very run; None where there is none, or a damaged one.

        Raises:
            UserError: it is another run's.
        """
        before = self.known(tell=True)
        if before is not None:
            self._refuse_other(before, self.fingerprint)
        return before

    def resumed(self, *, extend: bool, steps_done: Callable[[], int]) -> RunFolder | None:
        """The run to go on with, with the history that ``run.json`` tells; None where there is no run yet.

        Nothing is written.

        Args:
            extend: a run that differs in nothing but a shorter schedule may be gone on with under this one.
            steps_done: counts the steps that the folder's checkpoint has behind it; asked for if a run is extended.

        Raises:
            UserError: it is another run's; or there is none to extend, or no longer schedule.
        """
        before = self.read() if extend else self.known(tell=True)
        if before is None:
            if extend:
                raise UserError(
                    f"{self.out} holds no run to extend ({RUN_FILE} is missing)",
                    hint=f"leave out {parameter('extend', True)} to start one",
                )
            return None
        known = replace(self, history=read_history(before, where=str(self.out / RUN_FILE)))
        if _carried(before) == known.fingerprint:
            return known
        former = None if self.schedule is None else self.schedule.former(self.out, before, known.history)
        if self.schedule is None or former is None:
            self._refuse_other(before, known.fingerprint)
            return known
        self.schedule.check_longer(former, self.out, extend=extend)
        steps = steps_done()
        if not steps:  # nothing was trained under the former one
            return known
        return replace(known, history=(*known.history, Extension(_carried(before) or "", steps, former)))

    def write(self) -> None:
        """Write ``run.json``, and remove what a killed start of the run was about to write."""
        remove_leftovers(self.out, recursive=False)
        further: dict[str, Any] = {} if self.schedule is None else {"schedule": dict(self.schedule.keys)}
        if self.made_of:
            further[_MADE_OF] = dict(self.made_of)
        if self.history:
            further["extended"] = [each.to_dict() for each in self.history]
        content = {**self.identity, "fingerprint": self.fingerprint, **further}
        write_json(self.out / RUN_FILE, {**content, _SUM: _sum_of(content)})

    def warn_of_other_version(self) -> None:
        """Say so where another version of ScalePrior made the steps so far, which may not have drawn as this one."""
        then, now = (self.known() or {}).get("created_by"), self.identity.get("created_by")
        if isinstance(then, dict) and isinstance(now, dict) and then != now:
            logger.warning(
                "%s was trained by ScalePrior %s and goes on with %s: what a step draws and rounds may have changed, "
                "so that it does not end with the bits of an undisturbed run",
                self.out,
                _version(then),
                _version(now),
            )

    def _refuse_other(self, before: Mapping[str, Any], fingerprint: str) -> None:
        """Raises UserError unless ``before`` carries the fingerprint; names the parts that differ, if it says them."""
        then = before.get(_MADE_OF)
        now = json.loads(json.dumps(dict(self.made_of)))
        other = differing_parts(now, then) if isinstance(then, dict) else ""
        refuse_other_run(before, fingerprint, str(self.out), other or self.parts)

    def read(self) -> dict[str, Any] | None:
        """The ``run.json`` that is there, of whatever run; None where there is none.

        Raises:
            DamagedRunFile: its content is damaged. UserError, FailureError: it cannot be read.
        """
        path = self.out / RUN_FILE
        if not path.is_file():
            return None
        data, where = read_bytes(path, what="run description"), f"run description {path}"
        try:
            before = parse_json(data, where=where)
        except UserError as e:
            raise DamagedRunFile(e.wording.marked) from e
        if not isinstance(before, dict):
            raise DamagedRunFile(f"{where} is {shown(before)}", hint="choose another output folder")
        if before.pop(_SUM, None) not in (None, _sum_of(before)):  # earlier versions wrote none
            raise DamagedRunFile(f"{where} differs from the hash in it", hint="choose another output folder")
        return before

    def known(self, *, tell: bool = False) -> dict[str, Any] | None:
        """As :meth:`read`; None of a damaged one, too, for who can do without, which is a warning where ``tell``."""
        try:
            return self.read()
        except DamagedRunFile as e:
            if tell:
                logger.warning("%s: whose the folder is, its checkpoints say", e.wording.marked.partition("; ")[0])
            return None


def refuse_other_run(found: Mapping[str, Any], fingerprint: str, where: str, parts: str) -> None:
    """Hold the fingerprint that a folder or a checkpoint carries against that of the run to go on with.

    Raises:
        UserError: they differ.
    """
    if _carried(found) != fingerprint:
        raise UserError(
            f"{where} holds a run with another {parts}",
            hint="resume with what it was started with, or choose another output folder",
        )


def _sum_of(content: Mapping[str, Any]) -> str:
    """Of what comes back from JSON, which knows no tuples."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(content)), sort_keys=True).encode()).hexdigest()


def _version(created_by: Mapping[str, Any]) -> str:
    return f"{created_by.get('version')} (commit {str(created_by.get('commit'))[:12]})"


def _carried(found: Mapping[str, Any]) -> str | None:
    return next((found[name] for name in ("fingerprint", *_OLD_NAMES) if name in found), None)


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Around putting a checkpoint's state into a model and its optimiser.

    Raises:
        UserError: it holds other names or shapes, as another version of ScalePrior or of torch may have written.
    """
    try:
        yield
    except ScalePriorError:
        raise
    except (RuntimeError, KeyError, TypeError, ValueError) as e:
        from scaleprior.training.memory import is_out_of_memory  # the rest of this module needs no torch

        if is_out_of_memory(e):
            raise
        said = " ".join(str(e).split())[:160]
        raise UserError(
            f"{path} was written by another version: {type(e).__name__}: {said}",
            hint="go on with that version, or remove the file to start this run anew",
        ) from e


def with_way_on(error: E, steps: int) -> E:
    """An error of the data of a step, that also says how to go on: the ``steps`` before it are saved."""
    saved = "the step before it is saved" if steps == 1 else f"the {steps} steps before it are saved"
    return type(error)(
        error.wording.marked, hint=f"{saved}: repair that file and go on with {parameter('resume', True)}"
    )


def with_room(error: WriteError, steps: int) -> WriteError:
    """An error of writing what is not the state, that also says how to go on: ``steps`` steps are saved."""
    saved = "the first step is saved" if steps == 1 else f"the first {steps} steps are saved"
    first = "free space" if error.full else "mend that"
    return WriteError(error.what, hint=f"{saved}: {first} and go on with {parameter('resume', True)}")
