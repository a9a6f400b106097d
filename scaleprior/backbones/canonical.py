"""From whatever names a backbone to its canonical file: as it is, the zoo's, or converted once into the cache.

A foreign file is converted without being asked for where its file or its publisher states every fact that matters;
nothing is assumed. The conversion is what ``scaleprior backbone convert FILE OUT`` writes, byte for byte.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from scaleprior.backbones.addresses import convert_command, text_of
from scaleprior.backbones.card import Card
from scaleprior.backbones.convert import convert_backbone
from scaleprior.backbones.readers.containers import open_container, sniff
from scaleprior.backbones.readers.facts import ReadOptions, UnknownFactsError, needed_option
from scaleprior.backbones.readers.limits import RefusedFileError
from scaleprior.backbones.readers.read import find_backbone
from scaleprior.backbones.readers.report import Found
from scaleprior.backbones.readers.shards import shards_of
from scaleprior.backbones.readers.timm_names import find_timm
from scaleprior.backbones.weights import has_card, load_canonical
from scaleprior.backbones.zoo.cache import ZooHome
from scaleprior.backbones.zoo.resolve import find_weights
from scaleprior.errors import FailureError, UserError
from scaleprior.files import file_sha256
from scaleprior.parsing import is_regular
from scaleprior.progress import ProgressFn
from scaleprior.wording import Wording

__all__ = ["canonical_file", "is_detector_state"]

logger = logging.getLogger(__name__)

_NAME = 100  # characters of a card's name that the name of its file takes
# Tensors that only a trained detector has.
_HEADS = ("proposal_generator.", "roi_heads.box_predictor.", "head.cls_score.", "head.bbox_pred.")


def canonical_file(weights: str | Path, *, progress: ProgressFn | None = None) -> Path:
    """The canonical file that a detector or a further pretraining can start from.

    Args:
        weights: such a file, or a foreign one, or a folder of either; ``scaleprior://NAME``; ``timm:NAME``.
        progress: called with (bytes, all bytes, {}) while a name of the zoo is downloaded.

    Raises:
        UserError: nothing there; an address; a trained detector; a foreign file that cannot be converted without
            further options, with the command that takes them.
        RefusedFileError: as ``read_backbone``.
        FailureError: a download failed, or the cache cannot be written.
    """
    text = text_of(weights)
    if text.startswith("timm:"):
        find_timm(text.removeprefix("timm:"))  # no option helps where it is not here
        return _converted(text)
    path = find_weights(weights, progress=progress)
    if has_card(path):
        return path
    _refuse_detector(path)
    return _converted(path)


def _converted(source: str | Path) -> Path:
    """The cache's conversion of a foreign file, made now if it is not there whole."""
    found = _understood(source)
    home, sha256 = ZooHome.current(), _weights_sha256(found.path)
    card = hashlib.sha256(found.card.to_json().encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]", "_", found.card.name)[:_NAME] or "backbone"
    target = home.converted(sha256, card, name)
    said = "; ".join(map(str, found.report.lines()))
    if _is_conversion(target, found.card):
        logger.info("%s was converted before, to %s: %s", source, target, said)
        return target
    try:
        with home.lock(f"converted-{sha256}"):
            if not _is_conversion(target, found.card):
                convert_backbone(source, target)
    except FailureError as e:
        raise FailureError(
            f"{source} has no card and was to be converted, but {e}", hint=f"or run `{convert_command(source)}`"
        ) from e
    if _weights_sha256(found.path) != sha256:
        target.unlink(missing_ok=True)
        raise UserError(f"{found.path} changed while it was converted", hint="try again when it is written")
    logger.warning("%s has no card; it was converted to %s: %s", source, target, said)
    return target


def _understood(source: str | Path) -> Found:
    """What the file is, without the numbers.

    Raises:
        UserError: ``scaleprior backbone convert`` would ask for options; says so with the whole command.
    """
    try:
        found = find_backbone(source, ReadOptions())
        found.draft.card()
    except RefusedFileError:
        raise
    except UnknownFactsError as e:
        command = convert_command(source, " ".join(Wording(needed_option(name)).flags for name in e.absent))
        raise UserError(
            e.said,
            hint=f"convert it with `{command}`, and give what that writes; without options it lists usual values",
        ) from e
    except UserError as e:
        remedy = f"{e.hint.marked}; " if e.hint else ""
        raise UserError(_without_hint(e), hint=f"{remedy}options are those of `{convert_command(source)}`") from e
    if "detector" in found.report.dropped:
        raise _is_detector(source)
    return found


def _without_hint(error: UserError) -> str:
    return error.wording.marked.removesuffix(f"; {error.hint.marked}")


def _refuse_detector(path: Path) -> None:
    """Raises UserError: a trained detector, said before anything of its facts is asked."""
    tree = open_container(path).tree
    state = tree.get("model", tree) if isinstance(tree, dict) else {}
    if isinstance(state, dict) and is_detector_state(map(str, state)):
        raise _is_detector(path)


def is_detector_state(names: Iterable[str]) -> bool:
    """Whether these are the tensors of a whole detector, in Detectron2's names, rather than of a backbone."""
    return any(part in name for name in names for part in _HEADS)


def _is_detector(source: str | Path) -> UserError:
    return UserError(
        f"{source} is a trained detector, not a backbone",
        hint=f"`{convert_command(source)}` cuts the backbone out; or evaluate the detector; "
        "or fine-tune all of it with SCALEPRIOR.START detector (detectron2 engine)",
    )


def _is_conversion(target: Path, card: Card) -> bool:
    """Whether the cache has it, with this card and whole."""
    if not is_regular(target):
        return False
    try:
        _, written = load_canonical(target)
    except UserError as e:
        logger.warning("%s is damaged (%s): converting again", target, e)
        return False
    return {**written.to_dict(), "tensors_sha256": ""} == {**card.to_dict(), "tensors_sha256": ""}


def _weights_sha256(path: Path) -> str:
    """Of a file's bytes; of an index of shards, over those of the shards, too."""
    files = [path, *_shards(path)]
    hashes = [file_sha256(file) for file in files]
    return hashes[0] if len(files) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _shards(index: Path) -> Iterator[Path]:
    if sniff(index) == "shards":
        yield from sorted(set(shards_of(index).values()))
