"""What an engine is given to start from."""

from __future__ import annotations

from pathlib import Path

from scaleprior.backbones.addresses import address_of, text_of
from scaleprior.backbones.canonical import canonical_file
from scaleprior.config import LoadedConfig
from scaleprior.config.load import override_config
from scaleprior.detect.engines import Engine
from scaleprior.detect.faster_rcnn.engine import TorchvisionEngine
from scaleprior.progress import ProgressFn

__all__ = ["start_from", "stays_an_address"]


def start_from(
    loaded: LoadedConfig, weights: str | Path | None, engine: Engine, *, progress: ProgressFn | None = None
) -> tuple[LoadedConfig, Path | None]:
    """The config and the backbone for ``engine.train``: a canonical file, or None for what ``MODEL.WEIGHTS`` says.

    An address that the engine may know how to fetch becomes ``MODEL.WEIGHTS``, since no path can hold it.

    Args:
        weights: whatever names a backbone; None or "" leaves all to ``MODEL.WEIGHTS``.
        progress: called with (bytes, all bytes, {}) while a name of the zoo is downloaded.

    Raises:
        UserError, FailureError: as ``canonical_file``.
    """
    if weights is None or not str(weights):
        return loaded, None
    if stays_an_address(weights, engine):
        return override_config(loaded, [("MODEL.WEIGHTS", text_of(weights))], origin="weights"), None
    return loaded, canonical_file(weights, progress=progress)


def stays_an_address(weights: str | Path, engine: Engine) -> bool:
    """Whether this is an address which only the engine can tell if it knows; our own one knows none."""
    return address_of(weights) is not None and not isinstance(engine, TorchvisionEngine)
