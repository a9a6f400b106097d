"""What an engine is given to start from, and which model it is given to evaluate."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from scaleprior.backbones.addresses import address_of, text_of
from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.weights import has_card
from scaleprior.config import LoadedConfig
from scaleprior.config.load import override_config, parse_overrides
from scaleprior.detect.engines import Engine
from scaleprior.detect.faster_rcnn.engine import TorchvisionEngine
from scaleprior.detect.plan import starts_from_detector
from scaleprior.errors import UserError
from scaleprior.parsing import is_regular, read_text
from scaleprior.places import is_inside
from scaleprior.progress import ProgressFn

__all__ = ["model_to_evaluate", "start_from", "stays_an_address"]

logger = logging.getLogger(__name__)

_POINTER = "last_checkpoint"  # of Detectron2's: the name of the newest checkpoint beside it
_POINTER_BYTES = 4096
# Addresses behind which there are backbones only: our zoo's, and Detectron2's folder of them.
_BACKBONES = ("scaleprior://", "detectron2://ImageNetPretrained/", "catalog://ImageNetPretrained/")


def start_from(
    loaded: LoadedConfig, weights: str | Path | None, engine: Engine, *, progress: ProgressFn | None = None
) -> tuple[LoadedConfig, Path | None]:
    """The config and the backbone for ``engine.train``: a canonical file, or None for what ``MODEL.WEIGHTS`` says.

    An address that the engine may know how to fetch becomes ``MODEL.WEIGHTS``, since no path can hold it; so does a
    detector where ``SCALEPRIOR.START`` asks for one.

    Args:
        weights: whatever names a backbone; None or "" leaves all to ``MODEL.WEIGHTS``.
        progress: called with (bytes, all bytes, {}) while a name of the zoo is downloaded.

    Raises:
        UserError, FailureError: as ``canonical_file``.
    """
    if weights is None or not str(weights):
        return loaded, None
    if stays_an_address(weights, engine) or starts_from_detector(loaded.cfg):
        return override_config(loaded, [("MODEL.WEIGHTS", text_of(weights))], origin="weights"), None
    return loaded, canonical_file(weights, progress=progress)


def stays_an_address(weights: str | Path, engine: Engine) -> bool:
    """Whether this is an address which only the engine can tell if it knows; our own one knows none."""
    return address_of(weights) is not None and not isinstance(engine, TorchvisionEngine)


def model_to_evaluate(
    engine: Engine, loaded: LoadedConfig, out: Path, *, given: str | None = None, words: Sequence[str] = ()
) -> str:
    """The trained detector to evaluate, which is logged: the first there is of

    1. what the caller names: ``given``, or ``MODEL.WEIGHTS`` among the ``KEY VALUE`` words of the command line;
    2. the run's own in ``out``: what ``last_checkpoint`` points to, else the engine's ``model_file``;
    3. ``MODEL.WEIGHTS`` of the config file, which for most configs is the backbone to start from.

    Args:
        words: overrides as they were typed, which ``loaded`` no longer tells from what the file says.

    Raises:
        UserError: only a backbone is named.
    """
    named = given or str(dict(parse_overrides(words)).get("MODEL.WEIGHTS") or "")
    weights = loaded.cfg.MODEL.WEIGHTS
    if named:
        found, which = named, "given on the command line"
    elif (own := _own_model(out, engine.model_file)) is not None:
        found, which = str(own), "the run's own"
    elif weights:
        if _is_backbone(weights):
            raise UserError(
                f"MODEL.WEIGHTS {weights} of {loaded.source} is a backbone, not a trained detector, and {out} holds no "
                "model of its own",
                hint="fine-tune it first, or name the detector on the command line: MODEL.WEIGHTS FILE",
            )
        found, which = weights, f"as {loaded.source} says"
    else:
        found, which = str(out / engine.model_file), "the run's own"
    logger.info("evaluating %s (%s)", found, which)
    return found


def _own_model(out: Path, model_file: str) -> Path | None:
    """What the run in ``out`` wrote last."""
    names = []
    with contextlib.suppress(UserError):  # no pointer, or a damaged one: then what the run ends with
        names = [read_text(out / _POINTER, limit=_POINTER_BYTES).strip()]
    kind = Path(model_file).suffix  # another engine's run may be in the folder, too
    fit = (name for name in [*names, model_file] if Path(name).suffix == kind and is_inside(name))
    return next((out / name for name in fit if is_regular(out / name)), None)


def _is_backbone(weights: str) -> bool:
    if address_of(weights) is not None or weights.startswith(_BACKBONES):
        return weights.startswith(_BACKBONES)
    path = Path(weights).expanduser()
    return is_regular(path) and has_card(path)
