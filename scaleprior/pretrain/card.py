"""The card of the backbone that a run made: the planned one, and what only the run can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.card import Card
from scaleprior.config.seed import run_seed
from scaleprior.pretrain.plan import planned_card
from scaleprior.pretrain.recipe import recipe_of
from scaleprior.provenance import created_by
from scaleprior.training.crews import TRAINED_BY

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.pretrain.data.batches import TrainBatches
    from scaleprior.pretrain.figures.recorder import Counters

__all__ = ["made_card"]


def made_card(
    cfg: CfgNode,
    dataset: TrainBatches,
    counters: Counters,
    parent: Card | None,
    *,
    trained_by: Sequence[Mapping[str, int]] | None = None,
) -> Card:
    """Of a run of ``cfg`` on ``dataset``; of a trunk that did not learn, that of its parent, whose weights it has.

    Args:
        parent: of MODEL.WEIGHTS; None = fresh weights.
        trained_by: see ``training.crews``; None where the number of processes cannot have changed.
    """
    if cfg.PRETRAIN.FREEZE == "trunk":
        assert parent is not None, "check_config asks for one"
        return parent
    images, node, seed = dataset.images, cfg.PRETRAIN, run_seed(cfg)
    corpus, planned = images.fraction.corpus, planned_card(cfg)
    noise = {"rate": node.NOISE.RATE, "kind": node.NOISE.KIND, "drop": node.NOISE.DROP, "seed": node.NOISE.SEED}
    return replace(
        planned,
        name=f"{planned.arch.name}_{corpus.name}-{len(images)}_seed{seed}",
        corpus={"name": corpus.name, "fingerprint": images.fraction.fingerprint},
        images=len(images),
        labels=len(images.label_space),
        noise=noise if node.NOISE.RATE or node.NOISE.DROP else {},
        epochs=counters.images_seen / len(images),
        steps=counters.step,
        recipe={**recipe_of(cfg), **_words(cfg, dataset), **({} if trained_by is None else {TRAINED_BY: trained_by})},
        parent=None if parent is None else {"name": parent.name, "tensors_sha256": parent.tensors_sha256},
        created_by=created_by(),
    )


def _words(cfg: CfgNode, dataset: TrainBatches) -> dict[str, Any]:
    """What the recipe says beside the keys, where there is something to say."""
    words: dict[str, Any] = {}
    if decay := cfg.PRETRAIN.EMA.DECAY:
        words["weights"] = f"averaged over the steps: decay {decay:g}, at most (1 + t) / (10 + t) after step t"
    if dataset.sizes is not None:
        words["relative_pixels"] = round(dataset.sizes.cost, 6)
    return words
