"""``scaleprior://NAME`` for iopath: works with iopath's PathManager and with Detectron2's own one."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from iopath.common.file_io import PathHandler, PathManager

from scaleprior.backbones.zoo.catalogue import load_catalogue
from scaleprior.backbones.zoo.resolve import PREFIX, canonical
from scaleprior.errors import UserError

__all__ = ["ScalePriorHandler", "register"]


class ScalePriorHandler(PathHandler):
    """Resolves names of the zoo to canonical files of the cache, downloading and converting what is missing; read only.

    Errors are :class:`~scaleprior.errors.UserError` (also a ValueError) and
    :class:`~scaleprior.errors.FailureError`, as :func:`scaleprior.backbones.zoo.canonical` raises them.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        """``force`` downloads again, as iopath defines it."""
        self._check_kwargs(kwargs)
        return str(canonical(path[len(PREFIX) :], refresh=force))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        self._check_kwargs(kwargs)
        if mode not in ("r", "rb", "rt"):
            raise UserError(f"{path} is opened with mode {mode!r}, the zoo is read only", hint="write to a path")
        return Path(self._get_local_path(path)).open(mode, buffering)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        """The catalogue has the name, and weights can be had for it; asks no server."""
        self._check_kwargs(kwargs)
        entry = load_catalogue().entries.get(path[len(PREFIX) :])
        return entry is not None and entry.kind != "paper"

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return self._exists(path, **kwargs)

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        self._check_kwargs(kwargs)
        return path == PREFIX

    def _ls(self, path: str, **kwargs: Any) -> list[str]:
        """All names, for ``scaleprior://`` itself."""
        self._check_kwargs(kwargs)
        if path != PREFIX:
            raise UserError(f"{path} is not a folder", hint=f"{PREFIX} lists the zoo")
        return list(load_catalogue().entries)


def register(path_manager: PathManager) -> None:
    """Teach ``path_manager`` the prefix ``scaleprior://``; doing it twice is harmless."""
    path_manager.register_handler(ScalePriorHandler(), allow_override=True)
