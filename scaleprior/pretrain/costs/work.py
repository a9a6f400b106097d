"""How long a run of a config is, in steps and images, for the config's fraction or for any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaleprior.config.batch import settled
from scaleprior.pretrain.optim.schedule import budget_steps
from scaleprior.pretrain.recipe import training_images

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["Work", "ladder_work", "pretraining_work"]


@dataclass(frozen=True)
class Work:
    """The length of one run.

    Attributes:
        images: of its fraction. steps: updates of the weights. images_seen: images of all steps, once for every time.
    """

    images: int
    steps: int
    images_seen: int

    @property
    def epochs(self) -> float:
        """Passes over the fraction."""
        return self.images_seen / self.images


def pretraining_work(cfg: CfgNode, corpus_images: int) -> Work:
    """The run that ``cfg`` describes, of one process unless its batch is settled.

    Args:
        corpus_images: of the corpus, held-out ones among them.

    Raises:
        UserError: see ``recipe.training_images``.
    """
    node, images = settled(cfg).PRETRAIN, training_images(cfg, corpus_images)
    size = node.BATCH_SIZE
    steps = budget_steps(node.BUDGET.AMOUNT, node.BUDGET.UNIT, images=images, batch_size=size)
    return Work(images, steps, steps * size)


def ladder_work(cfg: CfgNode, corpus_images: int, ladder: Sequence[int]) -> list[Work]:
    """The runs that ``cfg`` describes on other fractions: under a budget of epochs their steps grow with the images,
    under one of steps or images they do not.

    Args:
        ladder: images of each fraction.

    Raises:
        UserError: a fraction that the corpus does not have; names the keys.
    """
    works = []
    for images in ladder:
        rung = cfg.clone()
        rung.defrost()
        rung.PRETRAIN.FRACTION.IMAGES, rung.PRETRAIN.FRACTION.RATIO = images, 0.0
        works.append(pretraining_work(rung, corpus_images))
    return works
