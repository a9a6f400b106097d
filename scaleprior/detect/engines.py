"""Engines by name: what fine-tunes and evaluates a detector. Torch-free until an engine works.

"torchvision" is built in. Others announce themselves in the entry-point group ``scaleprior.engines``: each entry point
is a callable without arguments that returns an :class:`Engine`. Detectron2's comes that way.
"""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from scaleprior.errors import UserError
from scaleprior.plugins import announced, check_protocol, find_announced, unknown_name
from scaleprior.progress import ProgressFn
from scaleprior.wording import parameter

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.config import LoadedConfig
    from scaleprior.detect.metrics import DetectionResult

__all__ = [
    "ENGINE_GROUP", "Engine", "can_extend", "check_processes", "get_engine", "known_engines", "resolve_auto",
]  # fmt: skip

ENGINE_GROUP = "scaleprior.engines"
_BUILTIN = "torchvision"
_DETECTRON2_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"


@runtime_checkable
class Engine(Protocol):
    """Fine-tunes and evaluates a detector that a config describes.

    Attributes:
        name: what results carry.
        model_file: name of the trained model that ``train`` leaves in its folder.

    An engine whose methods several processes may call at once, as under torchrun, says so: see :func:`check_processes`.
    """

    name: str
    model_file: str

    def default_config(self) -> CfgNode:
        """A fresh config with every key that this engine honours: the ``defaults`` of ``load_config``."""
        ...

    def check_config(self, cfg: CfgNode) -> None:
        """Refuse what this engine cannot honour, as far as the config alone tells it: before anything is paid for.

        Args:
            cfg: with the keys that a backbone's card determines as the card wants them.

        Raises:
            UserError: names the key and its value.
        """
        ...

    def train(
        self,
        loaded: LoadedConfig,
        weights: Path | None,
        out: Path,
        *,
        resume: bool = False,
        progress: ProgressFn | None = None,
    ) -> Path:
        """Train on ``DATASETS.TRAIN`` and return the model's file.

        Args:
            weights: backbone to start from; None = ``MODEL.WEIGHTS``, or fresh weights where that is empty.
            out: folder for all that is written.
            resume: go on where an earlier run in ``out`` stopped.

        An engine that can go on with a run under a longer schedule, and records that, takes a further ``extend``; see
        :func:`can_extend`.
        """
        ...

    def evaluate(
        self, loaded: LoadedConfig, model: Path, out: Path, *, progress: ProgressFn | None = None
    ) -> dict[str, DetectionResult]:
        """COCO AP of ``model`` on each set of ``DATASETS.TEST``, by name of the set, in their order."""
        ...


def can_extend(engine: Engine) -> dict[str, bool]:
    """The keyword for ``engine.train`` that asks for a run to be extended.

    Raises:
        UserError: this engine knows no such thing.
    """
    if "extend" not in inspect.signature(engine.train).parameters:
        raise UserError(
            f"{parameter('extend', True)} is asked for, and the {engine.name} engine extends no runs",
            hint="train anew in another folder, or use the detectron2 engine",
        )
    return {"extend": True}


def check_processes(engine: Engine, processes: int) -> None:
    """Refuse several processes for an engine whose methods are not meant to be called in each of them at once.

    An engine says that its are by an attribute ``several_processes`` that is true.

    Raises:
        UserError: names the engine.
    """
    if processes > 1 and not getattr(engine, "several_processes", False):
        hint = "tools/train_net.py starts Detectron2's" if engine.name == "detectron2" else "use the torchvision engine"
        raise UserError(
            f"{processes} processes are asked for, and here the {engine.name} engine runs in one",
            hint=f"{hint}, or take one process",
        )


def known_engines() -> list[str]:
    """Names of the engines that are there: the built-in one, and those installed packages announce."""
    return sorted({_BUILTIN, *(point.name for point in announced(ENGINE_GROUP))})


def resolve_auto() -> str:
    """What "auto" means here: detectron2 where it is installed together with its engine, else torchvision."""
    usable = "detectron2" in known_engines() and find_spec("detectron2") is not None
    return "detectron2" if usable else _BUILTIN


def get_engine(name: str = "auto") -> Engine:
    """The engine called ``name``.

    Raises:
        UserError: no such engine; lists the known ones. One that lacks a method; names it. detectron2 without
            Detectron2: points to its guide.
    """
    if name == "auto":
        name = resolve_auto()
    if name == _BUILTIN:
        from scaleprior.detect.faster_rcnn.engine import TorchvisionEngine

        return TorchvisionEngine()
    if name == "detectron2" and find_spec("detectron2") is None:
        raise UserError(
            "engine detectron2 needs Detectron2, which is not installed", hint=f"install it by {_DETECTRON2_GUIDE}"
        )
    engine = find_announced(ENGINE_GROUP, name, "engine")
    if engine is None:
        raise unknown_name("engine", name, ["auto", *known_engines()])
    made = engine()
    check_protocol(made, Engine, f"engine {name!r}")
    return made
