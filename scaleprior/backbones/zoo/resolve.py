"""From a name to a verified local file: the cache, or a download; offline, the cache alone. Converts if need be."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from scaleprior.backbones.addresses import Address, address_of, path_of, refusal, text_of
from scaleprior.backbones.readers.containers import locate as locate_file
from scaleprior.backbones.zoo.cache import Record, ZooHome, is_intact
from scaleprior.backbones.zoo.catalogue import load_catalogue
from scaleprior.backbones.zoo.download import download
from scaleprior.backbones.zoo.entry import Entry
from scaleprior.backbones.zoo.hashes import PrintedHash, file_digests
from scaleprior.backbones.zoo.hub import HubFile, stated_sha256
from scaleprior.errors import FailureError, UserError
from scaleprior.files import file_sha256
from scaleprior.progress import ProgressFn

__all__ = [
    "PREFIX", "canonical", "convert_entry", "fetch", "find_weights", "is_uri", "local_path", "locate", "model_path",
]  # fmt: skip

logger = logging.getLogger(__name__)

PREFIX = "scaleprior://"
_OFF = ("", "0", "false", "no")


def is_uri(text: str | Path) -> bool:
    """Whether this is ``scaleprior://NAME``."""
    return text_of(text).startswith(PREFIX)


def local_path(weights: str | Path, *, progress: ProgressFn | None = None) -> Path:
    """The canonical file that ``scaleprior://NAME`` stands for; a path, which need not be there, with ``~`` followed.

    Raises:
        UserError: an address of somewhere else; says how to get its file. Also as :func:`canonical`.
        FailureError: see :func:`canonical`.
    """
    if is_uri(weights):
        return canonical(text_of(weights).removeprefix(PREFIX), progress=progress)
    address = address_of(weights)
    if address is not None:
        raise refusal(address, zoo=_same_file(address))
    return path_of(weights)


def find_weights(weights: str | Path, *, progress: ProgressFn | None = None) -> Path:
    """The file that ``weights`` means: as :func:`local_path`, and in a folder of a run or a model the one inside.

    Raises:
        UserError: nothing there, which may be a name of the zoo. Also as :func:`local_path`.
        FailureError: see :func:`canonical`.
    """
    path = local_path(weights, progress=progress)
    if not path.exists() and (meant := _meant(path.name)):
        raise UserError(f"weights not found: {weights}", hint=f"did you mean {PREFIX}{meant}?")
    return locate_file(path)


def model_path(model: str | Path) -> Path:
    """The path of a trained detector, with ``~`` followed; it need not be there.

    Raises:
        UserError: an address of somewhere else, or a name of a backbone.
    """
    if is_uri(model) or text_of(model).startswith("timm:"):
        raise UserError(f"{text_of(model)} is a backbone, not a trained detector", hint="fine-tune it first")
    address = address_of(model)
    if address is not None:
        raise refusal(address, trained=True)
    return path_of(model)


def _meant(text: str) -> str:
    """The name of the zoo that is meant by a text that is no file; "" if none is."""
    with contextlib.suppress(UserError):  # a catalogue that cannot be read is another matter
        names = {name.lower(): name for name in load_catalogue().entries}
        near = difflib.get_close_matches(text.lower(), names, n=1, cutoff=0.85)
        return names[near[0]] if near else ""
    return ""


def _same_file(address: Address) -> str:
    """The name under which the zoo has the file of an address; "" if it has not."""
    with contextlib.suppress(UserError):
        for entry in load_catalogue():
            of_timm = entry.timm is not None and address.repository == f"timm/{entry.timm}"
            if of_timm or (address.url and address.url in (entry.url, *(copy["url"] for copy in entry.also))):
                return entry.name
    return ""


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
            convert_entry(entry, path, target)
    return target


def convert_entry(entry: Entry, path: Path, target: Path) -> None:
    """Write the published file ``path`` of ``entry`` as a canonical one, by the facts that the catalogue states.

    Raises:
        UserError: it is not what the catalogue says it is.
    """
    from scaleprior.backbones.convert import convert_backbone
    from scaleprior.backbones.readers import ReadOptions
    from scaleprior.backbones.readers.facts import UnknownFactsError
    from scaleprior.backbones.readers.sources.timm_models import model_facts

    known = [entry.facts(f"the catalogue's {entry.name}")]
    if entry.timm is not None:
        known.append(model_facts(entry.timm, f"timm's {entry.timm}, which the catalogue names", "publisher"))
    options = ReadOptions(
        name=entry.name,
        state=entry.state,
        prefix=entry.prefix,
        select=entry.select,
        images=entry.images,
        labels=entry.labels,
        corpus=entry.corpus,
        licence=entry.licence,
        source=entry.source,
    )
    try:
        _, report = convert_backbone(path, target, options, known=known)
    except UnknownFactsError as e:
        said = f"the catalogue's entry {entry.name} does not say {', '.join(e.absent)}, and neither does its file"
        raise UserError(said, hint=f"add it to the entry in {ZooHome.current().catalogue}") from e
    logger.info("%s: %s", target, "; ".join(report.lines()))


def fetch(name: str, *, refresh: bool = False, progress: ProgressFn | None = None) -> Path:
    """The file of a backbone, with its hash checked, downloaded if the cache does not have it.

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
            hint=f"make your own from a corpus of yours (CORPUS is its index): {entry.command}; "
            f"then give it that name: {entry.register_command}",
        )
    if entry.kind == "own":
        return _own(entry, home)
    with home.lock(name):
        record = home.read_record(name)
        if record is not None and not refresh:
            path = home.file(record.sha256, record.file)
            if is_intact(path, record.sha256, entry.printed):
                return path
            logger.warning("%s is missing or damaged, or the catalogue names another file: downloading again", path)
        where = locate(entry)
        if isinstance(where, HubFile):
            return _from_hub(entry, where, home, record, refresh=refresh, progress=progress)
        if _offline():
            raise _absent(entry, home)
        return _download(entry, where, home, record, progress)


def _offline() -> bool:
    return any(os.environ.get(name, "").lower() not in _OFF for name in ("SCALEPRIOR_OFFLINE", "HF_HUB_OFFLINE"))


def _absent(entry: Entry, home: ZooHome) -> UserError:
    return UserError(
        f"{entry.name} is not in the cache {home.root} and SCALEPRIOR_OFFLINE or HF_HUB_OFFLINE is set",
        hint=f"run `scaleprior zoo fetch {entry.name}` with a network, or copy that folder (and for what it links to, "
        "the hub's cache) from where it was run",
    )


def locate(entry: Entry) -> HubFile | str:
    """Where a public entry's file is: on the Hugging Face hub, or at an address.

    For an entry by its timm name this is where timm itself would look.

    Raises:
        FailureError: the installed timm has no weights of that name.
    """
    if entry.url is not None:
        return entry.url
    from timm.models import get_pretrained_cfg

    assert entry.timm is not None, "a public entry has an address or a name"
    try:
        cfg = get_pretrained_cfg(entry.timm)
    except RuntimeError as e:
        raise FailureError(f"timm does not know {entry.timm} ({e})", hint="update timm") from e
    if cfg is not None and not cfg.hf_hub_id and cfg.url and isinstance(cfg.url, str):
        return cfg.url
    if cfg is None or not cfg.hf_hub_id:
        raise FailureError(f"the installed timm has no weights called {entry.timm}", hint="update timm")
    repository, _, revision = cfg.hf_hub_id.partition("@")
    # timm's own preference: the safetensors file, unless it names another one
    return HubFile(repository, cfg.hf_hub_filename or "model.safetensors", revision or "main")


def _own(entry: Entry, home: ZooHome) -> Path:
    assert entry.sha256 is not None
    path = home.file(entry.sha256, f"{entry.name}.safetensors")
    if not is_intact(path, entry.sha256):
        raise FailureError(
            f"{path}, the file of {entry.name}, is missing or was altered",
            hint=f"`scaleprior zoo remove {entry.name}`, and add the file again",
        )
    return path


def _from_hub(
    entry: Entry, where: HubFile, home: ZooHome, record: Record | None, *, refresh: bool, progress: ProgressFn | None
) -> Path:
    """A link to the file in the hub's cache, which timm may have brought there before."""
    path = where.cached()
    # What is there already was just found to be damaged or another one, if an earlier download was of it.
    again = refresh or (path is not None and (record is not None or not _as_stated(path)))
    if _offline() and (path is None or again):
        raise _absent(entry, home)
    if path is None or again:
        path = where.download(again=again, progress=progress)
    expected, stated = _expected(entry, where.url, record), stated_sha256(path)
    if expected is None and stated is not None:
        expected = PrintedHash("sha256", stated)
    found = file_digests(path, {"sha256", *([expected.algorithm] if expected else ())})
    if expected is not None and not expected.of(found):
        raise FailureError(
            f"{where.url} has {expected.name} {found[expected.algorithm]}, expected {expected.words}; it is not used",
            hint="try again; if it stays so, the file was replaced by another one",
        )
    sha256 = found["sha256"]
    target = home.file(sha256, entry.name + path.suffix)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(path.resolve())
    except OSError as e:
        raise FailureError(f"cannot write {target}: {e.strerror or e}", hint="free space and run again") from e
    return _remember(entry, where.url, home, target, sha256)


def _as_stated(path: Path) -> bool:
    return stated_sha256(path) in (None, file_sha256(path))


def _download(entry: Entry, url: str, home: ZooHome, record: Record | None, progress: ProgressFn | None) -> Path:
    part = home.partial(entry.name)
    sha256 = download(url, part, printed=_expected(entry, url, record), progress=progress)
    target = home.file(sha256, entry.name + PurePosixPath(urlsplit(url).path).suffix)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, target)
    except OSError as e:
        raise FailureError(f"cannot write {target}: {e.strerror or e}", hint="free space and run again") from e
    return _remember(entry, url, home, target, sha256)


def _expected(entry: Entry, url: str, record: Record | None) -> PrintedHash | None:
    """The published hash; without one, the first download's is kept, so a file that changes later is noticed."""
    if entry.printed is not None or record is None or record.url != url:
        return entry.printed
    return PrintedHash("sha256", record.sha256)


def _remember(entry: Entry, url: str, home: ZooHome, target: Path, sha256: str) -> Path:
    home.write_record(entry.name, Record(url=url, sha256=sha256, file=target.name))
    logger.info("%s: %s, SHA-256 %s", entry.name, target, sha256)
    return target
