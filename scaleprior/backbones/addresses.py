"""What a text that names weights is: a path of this machine, or an address of somewhere else, and how to get that.

Nothing is fetched here, and no address is taken for a path: ``Path("https://host/x")`` is ``https:/host/x``, which is
put right where such a path arrives.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from scaleprior.errors import UserError
from scaleprior.wording import flag, one_line, printable, shown

__all__ = ["Address", "address_of", "convert_command", "is_path", "path_of", "refusal", "text_of"]

_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"  # Detectron2Handler in its utils/file_io.py
_DETECTRON = "https://dl.fbaipublicfiles.com/detectron/"  # ModelCatalog in its checkpoint/catalog.py
_CATALOG = {
    "MSRA/R-50": "ImageNetPretrained/MSRA/R-50.pkl",
    "MSRA/R-101": "ImageNetPretrained/MSRA/R-101.pkl",
    "FAIR/R-50-GN": "ImageNetPretrained/47261647/R-50-GN.pkl",
    "FAIR/R-101-GN": "ImageNetPretrained/47592356/R-101-GN.pkl",
    "FAIR/X-101-32x8d": "ImageNetPretrained/20171220/X-101-32x8d.pkl",
    "FAIR/X-101-64x4d": "ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl",
    "FAIR/X-152-32x8d-IN5k": "ImageNetPretrained/25093814/X-152-32x8d-IN5k.pkl",
}
"""What follows ``catalog://ImageNetPretrained/`` -> what follows the address; from the same file of Detectron2's."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/*)(.*)", re.DOTALL)  # two letters or more: C:/ is a drive
_OURS = ("scaleprior", "timm", "file")
_HEURISTICS = "?matching_heuristics=True"  # what Detectron2 reads behind a file's name; names are matched here anyway


@dataclass(frozen=True)
class Address:
    """Weights that are not on this machine.

    Attributes:
        text: as the user wrote it.
        what: a noun phrase: "an address on the web".
        fetch: the shell command that gets the file; where there is none that is known, "".
        file: the file or folder that it leaves.
        url: where a browser finds the file, if that is known.
        repository: on the Hugging Face hub, "timm/resnet50.a1_in1k".
    """

    text: str
    what: str
    fetch: str
    file: str
    url: str = ""
    repository: str = ""


def text_of(weights: str | Path) -> str:
    """What the user wrote, also where a ``Path`` made one slash of the two of an address."""
    text = str(weights)
    found = _SCHEME.fullmatch(text)
    if found is None or found[2] != "/" or found[1].lower() not in (*_KINDS, *_OURS):
        return text
    return f"{found[1]}://{'/' if found[1].lower() == 'file' else ''}{found[3]}"


def address_of(weights: str | Path) -> Address | None:
    """The address that ``weights`` is; None for a path, ``file://PATH``, ``scaleprior://NAME`` and ``timm:NAME``.

    Raises:
        UserError: an address that cannot be one, such as ``http://[``.
    """
    text = text_of(weights)
    found = _SCHEME.fullmatch(text)
    if found is None:
        return None
    scheme, slashes, rest = found[1].lower(), found[2], found[3].removesuffix(_HEURISTICS)
    if scheme in _OURS:
        return None  # brought by the zoo, or found on this machine
    if scheme in ("hf-hub", "hf_hub") and rest:
        return _hub(text, rest)
    if not slashes or (len(slashes) == 1 and scheme not in _KINDS):
        return None  # a file may be called a:b
    try:
        return _KINDS.get(scheme, _unknown)(text, rest)
    except ValueError as e:  # of urlsplit
        raise UserError(f"weights {shown(text)}: {one_line(e)}", hint="check the address") from e


def is_path(text: str) -> bool:
    """Whether ``text`` names weights by a path, and not by an address or another ``SCHEME:...``."""
    found = _SCHEME.fullmatch(text_of(text))
    ours = found is not None and found[1].lower() in _OURS and (found[2].startswith("//") or found[1] == "timm")
    return not ours and address_of(text) is None


def path_of(weights: str | Path) -> Path:
    """The path of this machine that ``weights`` is, with ``~`` and ``file://`` followed; it need not be there.

    Raises:
        UserError: an address of somewhere else, or nothing at all.
    """
    text = text_of(weights)
    if not text:
        raise UserError("weights are named by an empty text", hint="give a file")
    address = address_of(text)
    if address is not None:
        raise refusal(address)
    if text.startswith("scaleprior://"):
        raise UserError(f"{printable(text)} is a name of the zoo, not a path", hint="its file is zoo.local_path(NAME)")
    if text.startswith("file://"):
        host, slash, rest = text.removeprefix("file://").partition("/")
        if host not in ("", "localhost") or not slash:
            raise UserError(f"weights {text} lie on the machine {host!r}", hint="copy the file here and give its path")
        text = "/" + unquote(rest)
    try:
        return Path(text.removesuffix(_HEURISTICS)).expanduser()
    except (RuntimeError, ValueError) as e:  # ~somebody, who is not here; letters that no file system has
        raise UserError(f"weights {shown(text)}: {one_line(e)}", hint="write the whole path") from e


def refusal(address: Address, *, zoo: str = "", trained: bool = False) -> UserError:
    """The error for weights that are not on this machine: what they are, and how to get them.

    Args:
        zoo: the name under which the zoo has the same file.
        trained: a detector is asked for, which is not converted.
    """
    then = (
        "give that file" if trained else f"run `{convert_command(address.file)}`, and give {_converted(address.file)}"
    )
    way = f"get the file with `{address.fetch}`" if address.fetch else "get the file by what knows such addresses"
    short = f"give scaleprior://{zoo}, which is that file; or " if zoo else ""
    said = f"weights {printable(address.text)}: this is {address.what}, and only scaleprior:// names are fetched"
    return UserError(said, hint=f"{short}{way}, {then}")


def convert_command(file: str | Path, options: str = "") -> str:
    """The command that makes a backbone with a card of a foreign file.

    Args:
        options: further words.
    """
    words = ["scaleprior", "backbone", "convert", str(file), _converted(file)]
    return shlex.join(words) + (f" {options}" if options else "")


def _converted(file: str | Path) -> str:
    """A name in the working folder for what a file is converted to, which is not its own."""
    name = re.split("[:/]", str(file))[-1]
    stem = re.sub(r"(?i)(\.(safetensors|index|json|pth|pt|bin|pkl|npz|tar|ckpt))+$", "", name)
    return f"{stem or 'backbone'}{'-converted' if str(file).endswith('.safetensors') else ''}.safetensors"


def _web(text: str, rest: str) -> Address:
    url = f"{text.partition(':')[0].lower()}://{rest}"
    place = urlsplit(url)
    if place.hostname == "huggingface.co":
        if re.fullmatch(r"/[^/]+/[^/]+/?", place.path):
            return _hub(text, place.path.strip("/"))
        url = url.replace("/blob/", "/resolve/", 1)  # the page that shows the file -> the file
    elif place.hostname == "github.com":
        url = url.replace("/blob/", "/raw/", 1)
    return _download(text, "an address on the web", url)


def _detectron2(text: str, rest: str) -> Address:
    return _download(text, "a file of Detectron2's model zoo", _DETECTRON2 + rest)


def _catalog(text: str, rest: str) -> Address:
    known = _CATALOG.get(rest.removeprefix("ImageNetPretrained/"))
    if known is not None:
        return _download(text, "a file of Detectron's model zoo", _DETECTRON + known)
    ask = f"from detectron2.checkpoint.catalog import ModelCatalog as c; print(c.get({rest!r}))"
    return _asked(text, "a name of Detectron's model zoo", ask, "model_final.pkl")


def _mmengine(function: str) -> Callable[[str, str], Address]:
    """Names that OpenMMLab's loader looks up (open-mmlab/mmengine, mmengine/runner/checkpoint.py)."""

    def made(text: str, rest: str) -> Address:
        ask = f"from mmengine.runner import checkpoint as c; print(c.{function}()[{rest!r}])"
        return _asked(text, "a name of OpenMMLab's model zoo", ask, f"{PurePosixPath(rest).name or 'weights'}.pth")

    return made


def _torchvision(text: str, rest: str) -> Address:
    """OpenMMLab's way to say which of torchvision's weights; without the weights' own name, the first."""
    name, _, tag = rest.lower().replace("_weights", "").partition(".")
    chosen = (tag or "imagenet1k_v1").upper()
    ask = f"from torchvision import models as m; print(m.get_model_weights({name!r})[{chosen!r}].url)"
    return _asked(text, "a name of torchvision's weights", ask, f"{name or 'weights'}.pth")


def _bucket(what: str, command: str) -> Callable[[str, str], Address]:
    def made(text: str, rest: str) -> Address:
        file = _name_of(rest)
        return Address(text, what, f"{command} {shlex.quote(text)} {shlex.quote(file)}", file)

    return made


def _hub(text: str, rest: str) -> Address:
    """``ORGANISATION/MODEL[@REVISION][/FILE]`` of the Hugging Face hub."""
    *repository, last = rest.strip("/").split("/", 2)[:2]
    inside = rest.strip("/").split("/", 2)[2:]
    last, _, revision = last.partition("@")
    repository = "/".join([*repository, last])
    folder = last or "model"
    words = ["hf", "download", repository, *inside]
    words += [*([flag("revision"), revision] if revision else []), flag("local_dir"), folder]
    file = str(PurePosixPath(folder, *inside))
    return Address(text, "a model of the Hugging Face hub", shlex.join(words), file, repository=repository)


def _unknown(text: str, rest: str) -> Address:
    return Address(text, "an address, not a file", "", _name_of(rest))


def _download(text: str, what: str, url: str) -> Address:
    file = _name_of(urlsplit(url).path)
    return Address(text, what, f"curl -fL -o {shlex.quote(file)} {shlex.quote(url)}", file, url)


def _asked(text: str, what: str, python: str, file: str) -> Address:
    """An address that another program's code knows."""
    # Single quotes inside double ones are readable; what a shell would read in those is quoted the long way.
    code = f'"{python}"' if not set(python) & set('"$`\\!') else shlex.quote(python)
    return Address(text, what, f'curl -fL -o {shlex.quote(file)} "$(python -c {code})"', file)


def _name_of(path: str) -> str:
    return PurePosixPath(unquote(path)).name or "weights.pth"


_KINDS: dict[str, Callable[[str, str], Address]] = {
    "http": _web,
    "https": _web,
    "ftp": _web,
    "detectron2": _detectron2,
    "catalog": _catalog,
    "torchvision": _torchvision,
    "modelzoo": _torchvision,
    "open-mmlab": _mmengine("get_external_models"),
    "openmmlab": _mmengine("get_external_models"),
    "mmcls": _mmengine("get_mmcls_models"),
    "s3": _bucket("an object of S3", "aws s3 cp"),
    "gs": _bucket("an object of Google's cloud storage", "gcloud storage cp"),
    "hdfs": _bucket("a file of HDFS", "hdfs dfs -get"),
    "hf": _hub,
}
"""Scheme -> what makes an address of (the text, what follows the slashes)."""
