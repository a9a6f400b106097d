"""Executors by name: what runs the cells of a study, and where. Torch-free until one works.

"local" is built in. Others announce themselves in the entry-point group ``scaleprior.executors``: each entry point is
an :class:`ExecutorFactory`, such as a class whose constructor takes its arguments. docs/study.md has an example.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from scaleprior.errors import UserError
from scaleprior.plugins import announced, find_announced, unknown_name

__all__ = ["EXECUTOR_GROUP", "Executor", "ExecutorFactory", "check_executor", "get_executor", "known_executors"]

EXECUTOR_GROUP = "scaleprior.executors"
_BUILTIN = "local"


@runtime_checkable
class Executor(Protocol):
    """Runs cells somewhere.

    A cell is a folder. ``python -m scaleprior.study.worker FOLDER`` runs it, on this machine or on another that sees
    the folder and the data under the same paths; it leaves ``result.json`` or ``error.json`` there, goes on where an
    earlier attempt stopped, and never runs twice at a time.
    """

    def run(
        self, folders: Sequence[Path], *, on_start: Callable[[Path], None], on_poll: Callable[[], None]
    ) -> Iterator[tuple[Path, int]]:
        """Run the cell of each folder; yield (folder, exit code) as they end, in any order.

        Exit codes are those of the worker: 0 done, 1 failed with an error file, negative: killed by that signal.
        ``on_start`` is called when a cell begins; ``on_poll`` a few times a second. Closing the iterator stops what
        runs; SIGTERM lets a worker save its state.

        Args:
            folders: of the cells that have no result yet, the longest first.
        """
        ...


ExecutorFactory = Callable[..., Executor]
"""``factory(*, jobs: int | None, threads: int, **options) -> Executor``, with the arguments of :func:`get_executor`."""


def known_executors() -> list[str]:
    """Names of the executors that are there: the built-in one, and those installed packages announce."""
    return sorted({_BUILTIN, *(point.name for point in announced(EXECUTOR_GROUP))})


def get_executor(
    name: str = _BUILTIN, *, jobs: int | None = None, threads: int = 1, options: Mapping[str, Any] | None = None
) -> Executor:
    """The executor called ``name``.

    Args:
        jobs: cells at a time; None leaves it to the executor.
        threads: CPU threads of one cell.
        options: of this executor, as the spec's ``executor`` section gives them.

    Raises:
        UserError: no such executor, lists the known ones; an option that it does not have, or that it needs; the
            factory gives what is no executor.
    """
    factory = _factory(name)
    options = dict(options or {})
    signature = inspect.signature(factory)
    try:
        signature.bind(jobs=jobs, threads=threads, **options)
    except TypeError as e:
        taken = [p for p in signature.parameters if p not in ("jobs", "threads")]
        raise UserError(f"executor {name}: {e}", hint=f"its options are {', '.join(taken) or 'none'}") from e
    made = factory(jobs=jobs, threads=threads, **options)
    return check_executor(made, f"what executor {name} makes")


def check_executor(value: object, what: str) -> Executor:
    """``value``, if it is an executor.

    Args:
        what: it is, for the message.

    Raises:
        UserError: it is a class, or has no ``run``.
    """
    if isinstance(value, type):
        raise UserError(f"{what} is the class {value.__name__}", hint=f"give what {value.__name__}(...) makes")
    if not isinstance(value, Executor):
        raise UserError(f"{what} is {value!r}", hint="give the name of an executor, or an object with its method run")
    return value


def _factory(name: str) -> ExecutorFactory:
    if name == _BUILTIN:
        return _local
    factory = find_announced(EXECUTOR_GROUP, name, "executor")
    if factory is None:
        raise unknown_name("executor", name, known_executors())
    return factory


def _local(
    *, jobs: int | None, threads: int, gpus: int | None = None, jobs_per_gpu: int | Literal["auto"] | None = None
) -> Executor:
    """The built-in executor, of whose arguments a spec may give those that a file can hold."""
    from scaleprior.study.executors.local import LocalExecutor

    return LocalExecutor(jobs=jobs, threads=threads, gpus=gpus, jobs_per_gpu=jobs_per_gpu)
