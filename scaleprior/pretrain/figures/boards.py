"""Boards on which a run's numbers are watched: TensorBoard, Weights & Biases. Both are optional packages."""

from __future__ import annotations

import json
import logging
import os
import random
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.errors import UserError
from scaleprior.files import write_json
from scaleprior.parsing import read_json
from scaleprior.pretrain.recipe import recipe_of

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["Board", "TensorBoard", "WeightsAndBiases", "boards_of", "weights_and_biases"]

logger = logging.getLogger(__name__)

_ID = "wandb.json"  # the run's name at W&B, under which a resumed run goes on


class Board:
    """Where numbers are shown."""

    def show(self, done: int, figures: Mapping[str, float]) -> None:
        """``figures`` by name, as they are after step ``done``."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """The run has come to its end; ``result`` is what ``result.json`` will hold."""

    def close(self) -> None:
        """Last call, after an error, too."""


def boards_of(cfg: CfgNode, out: Path) -> list[Callable[[int], Board]]:
    """Makers of the boards that ``cfg.PRETRAIN`` asks for; each is called with the number of finished steps.

    Raises:
        UserError: a package that one of them needs is not installed.
    """
    makers: list[Callable[[int], Board]] = []
    if cfg.PRETRAIN.TENSORBOARD:
        _need("PRETRAIN.TENSORBOARD", "tensorboard")
        makers.append(partial(TensorBoard, out / "tensorboard"))
    if cfg.PRETRAIN.WANDB:
        makers.append(weights_and_biases(cfg, out))
    return makers


def weights_and_biases(cfg: CfgNode, out: Path) -> Callable[[int], Board]:
    """Maker of the run's board at W&B; see :func:`boards_of`."""
    _need("PRETRAIN.WANDB", "wandb")
    return lambda done: WeightsAndBiases(out, project=f"scaleprior-{cfg.PRETRAIN.RECIPE}", config=recipe_of(cfg))


def _need(key: str, package: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"{key} needs the {package} package", hint=f"pip install {package}, or set it to False")


class TensorBoard(Board):
    """Events under ``folder``; those past the finished steps are void."""

    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def show(self, done: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, done)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases(Board):
    """A run at Weights & Biases, by the user's own settings (WANDB_MODE, WANDB_PROJECT, ...), which come first.

    Where no account is set up and no mode is chosen, it is an offline run: nothing is sent, ``wandb sync`` may do it
    later. A resumed run goes on under the same id; steps that it had shown before are not shown again.

    Args:
        out: folder of the run, which names it and holds wandb's files.
        project: what runs of one kind are gathered under.
        config: shown beside the figures.
    """

    def __init__(self, out: Path, *, project: str, config: Mapping[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports] (optional)

        def unless(variable: str, value: str) -> str | None:
            return None if os.environ.get(variable) else value

        before = random.getstate()
        mode = None
        if not os.environ.get("WANDB_MODE") and not wandb.api.api_key:
            mode = "offline"
            logger.info("no account of W&B is set up: its files stay in %s, `wandb sync` sends them", out / "wandb")
        self._run = wandb.init(
            project=unless("WANDB_PROJECT", project),
            name=unless("WANDB_NAME", out.resolve().name),
            id=unless("WANDB_RUN_ID", _run_id(out / _ID)),
            resume=unless("WANDB_RESUME", "allow"),
            dir=unless("WANDB_DIR", str(out)),
            config=json.loads(json.dumps(config)),
            mode=mode,
            settings=wandb.Settings(console="off") if unless("WANDB_CONSOLE", "off") else None,  # the bar is ours
        )
        random.setstate(before)  # the run's generator is its own
        self._failed = True

    def show(self, done: int, figures: Mapping[str, float]) -> None:
        if done >= self._run.step:
            self._run.log(dict(figures), step=done)

    def finish(self, result: Mapping[str, Any]) -> None:
        self._run.summary.update({"result": dict(result)})
        self._failed = False

    def close(self) -> None:
        self._run.finish(exit_code=int(self._failed))


def _run_id(path: Path) -> str:
    if path.exists():
        return str(read_json(path, what="id of the run at W&B")["id"])
    chosen = uuid.uuid4().hex[:8]
    write_json(path, {"id": chosen})
    return chosen
