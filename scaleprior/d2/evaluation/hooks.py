"""Detectron2's hooks around the evaluation, so that every key of it is honoured and a resumed run repeats itself."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.engine import DefaultTrainer, HookBase, hooks

__all__ = ["evaluation_hooks"]

logger = logging.getLogger(__name__)


def evaluation_hooks(found: list[HookBase | None], trainer: DefaultTrainer) -> list[HookBase]:
    """Detectron2's own hooks with those of ``TEST.AUG`` and ``TEST.PRECISE_BN``.

    Args:
        found: of ``DefaultTrainer.build_hooks``; None where a key asks for nothing.
    """
    cfg = trainer.cfg
    kept = [_repeatable(hook) for hook in found if hook is not None]
    if cfg.TEST.PRECISE_BN.ENABLED and not any(isinstance(hook, hooks.PreciseBN) for hook in kept):
        logger.warning("TEST.PRECISE_BN.ENABLED does nothing: no BN of the model is in training")
    if cfg.TEST.AUG.ENABLED and cfg.DATASETS.TEST:
        # Behind the evaluation without it, before the writers, which close their files at the end.
        place = next((i for i, hook in enumerate(kept) if isinstance(hook, hooks.PeriodicWriter)), len(kept))
        kept.insert(place, hooks.EvalHook(0, lambda: _evaluate_augmented(trainer)))
    return kept


def _evaluate_augmented(trainer: Any) -> dict[str, Any]:
    found = trainer.test_with_TTA(trainer.cfg, trainer.model)
    trainer._last_eval_results.update(found)
    return found


def _repeatable(hook: HookBase) -> HookBase:
    if type(hook) is not hooks.PreciseBN or hook._disabled:
        return hook
    return _PreciseBN(hook._period, hook._model, hook._data_loader, hook._num_iter)


class _PreciseBN(hooks.PreciseBN):
    """Takes its batches from the start of the data every time: Detectron2's goes on in them, and after a resume begins
    again, so that an interrupted run would end with other statistics."""

    def update_stats(self) -> None:
        self._data_iter = None
        super().update_stats()
