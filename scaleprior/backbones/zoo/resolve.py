"""From a name to a verified local file: the cache, or a download; offline, the cache alone. Converts if need be."""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from scaleprior.backbones.zoo.cache import Record, ZooHome, is_intact
from scaleprior.backbones.zoo.catalogue import load_catalogue
from scaleprior.backbones.zoo.download import download
from scaleprior.backbones.zoo.entry import Entry
from scaleprior.errors import FailureError, UserError
from scaleprior.progress import ProgressFn

__all__ = ["PREFIX", "canonical", "fetch", "is_uri", "local_path", "locate"]

logger = logging.getLogger(__name__)

PREFIX = "scaleprior://"
_OFF = ("", "0", "false", "no")


def is_uri(text: str | Path) -> bool:
    """Whether this is ``scaleprior://NAME``."""
    return str(text).startswith(PREFIX)


def local_path(weights: str | Path, *, progress: ProgressFn | None = None) -> Path:
    """The canonical file that ``scaleprior://NAME`` stands for; a path is returned as it is.

    Raises:
        UserError, FailureError: see :func:`canonical`.
    """
    return canonical(str(weights)[len(PREFIX) :], progress=progress) if is_uri(weights) else Path(weights)


def canonical(name: str, *, refresh: bool = False, progress: ProgressFn | None = None) -> Path:
    """A backbone as a canonical file: fetched, and converted once if it was published in another format.

    Raises:
        UserError: as :func:`fetch`; also a file that is not what the catalogue says it is.
        FailureError: as :func:`fetch`.
    """
    path = fetch(name, refresh=refresh, progress=progress)
    entry, home = load_catalogue().find(name), ZooHome.current()
    if entry.kind == "own":
        return path
    target = home.canonical(path.parent.name, name)
    with home.lock(name):
        if not target.is_file():
            _convert(entry, path, target)
    return target


def _convert(entry: Entry, path: Path, target: Path) -> None:
    from scaleprior.backbones.convert import convert_backbone
    from scaleprior.backbones.readers import ReadOptions

    options = ReadOptions(
        name=entry.name,
        pixel_mean=entry.pixel_mean,
        pixel_std=entry.pixel_std,
        channel_order="RGB",
        stride_in_1x1=False,
        timm_model=entry.timm,
        images=entry.images,
        labels=entry.labels,
        corpus=entry.corpus,
        licence=entry.licence,
        source=entry.source,
    )
    _, report = convert_backbone(path, target, options)
    logger.info("%s: %s", target, "; ".join(report.lines()))


def fetch(name: str, *, refresh: bool = False, progress: ProgressFn | None = None) -> Path:
    """The file of a backbone, with its SHA-256 checked, downloaded if the cache does not have it.

    A public entry gives the file as it was published, in its own format (:func:`canonical` converts it); an own one,
    the canonical file.

    Args:
        refresh: download again.
        progress: called with (bytes, all bytes, {}) during a download.

    Raises:
        UserError: no such name, weights that are not public (says how to make one's own), or offline and not cached.
        FailureError: the download failed, or an own file was damaged.
    """
    entry = load_catalogue().find(name)
    home = ZooHome.current()
    if entry.kind == "paper":
        raise UserError(
            f"the weights of {name} are not public ({entry.source})",
            hint=f"make your own from a corpus of yours (CORPUS is its index): {entry.command}",
        )
    if entry.kind == "own":
        return _own(entry, home)
    with home.lock(name):
        record = home.read_record(name)
        if record is not None and not refresh:
            path = home.file(record.sha256, record.file)
            if is_intact(path, record.sha256) and entry.sha256 in (None, record.sha256):
                return path
            logger.warning("%s is missing or damaged, or the catalogue names another file: downloading again", path)
        if os.environ.get("SCALEPRIOR_OFFLINE", "").lower() not in _OFF:
            raise UserError(
                f"{name} is not in the cache {home.root} and SCALEPRIOR_OFFLINE is set",
                hint=f"run `scaleprior zoo fetch {name}` with a network, or copy that folder from where it was run",
            )
        return _download(entry, home, record, progress)


def locate(entry: Entry) -> str:
    """Address of a public entry's file.

    For an entry by its timm name this is where timm itself would look: the Hugging Face hub (``HF_ENDPOINT`` names a
    mirror) if timm knows a place there, else timm's direct address.

    Raises:
        FailureError: the installed timm has no weights of that name.
    """
    if entry.url is not None:
        return entry.url
    from timm.models import get_pretrained_cfg

    try:
        cfg = get_pretrained_cfg(entry.timm)
    except RuntimeError as e:
        raise FailureError(f"timm does not know {entry.timm} ({e})", hint="update timm") from e
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise FailureError(f"the installed timm has no weights called {entry.timm}", hint="update timm")
    if cfg.hf_hub_id is None:
        return cfg.url
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    repository, _, revision = cfg.hf_hub_id.partition("@")
    # timm's own preference: the safetensors file, unless it names another one
    return f"{endpoint}/{repository}/resolve/{revision or 'main'}/{cfg.hf_hub_filename or 'model.safetensors'}"


def _own(entry: Entry, home: ZooHome) -> Path:
    assert entry.sha256 is not None
    path = home.file(entry.sha256, f"{entry.name}.safetensors")
    if not is_intact(path, entry.sha256):
        raise FailureError(
            f"{path}, the file of {entry.name}, is missing or was altered",
            hint=f"remove the entry from {home.catalogue} and add the file again",
        )
    return path


def _download(entry: Entry, home: ZooHome, record: Record | None, progress: ProgressFn | None) -> Path:
    url = locate(entry)
    part = home.partial(entry.name)
    # Without a published hash, the first download's is kept: a file that changes later is noticed.
    expected = entry.sha256 or (record.sha256 if record is not None and record.url == url else None)
    sha256 = download(url, part, sha256=expected, progress=progress)
    file = entry.name + PurePosixPath(urlsplit(url).path).suffix
    target = home.file(sha256, file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, target)
    except OSError as e:
        raise FailureError(f"cannot write {target}: {e.strerror or e}", hint="free space and run again") from e
    home.write_record(entry.name, Record(url=url, sha256=sha256, file=file))
    logger.info("%s: %s, SHA-256 %s", entry.name, target, sha256)
    return target
