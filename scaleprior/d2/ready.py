"""A config of anybody's as our trainer takes it: with our keys, our data sets, a device, and for so many processes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, defaults
from detectron2.utils import comm

from scaleprior.config import add_scaleprior_config
from scaleprior.d2.data.datasets import register_datasets
from scaleprior.detect.data.minival import MINIVAL_SETS
from scaleprior.detect.data.names import own_sets
from scaleprior.detect.workers import check_reference
from scaleprior.training.device import resolve_device

__all__ = ["ddp_on_cpu", "ready", "scaled", "with_own_keys", "with_sets"]


def with_own_keys(cfg: CfgNode) -> CfgNode:
    """``cfg``, or a copy with our keys at their defaults where it has Detectron2's alone."""
    return cfg if "SCALEPRIOR" in cfg else _changed(cfg, add_scaleprior_config)


def with_sets(cfg: CfgNode, names: Iterable[str]) -> CfgNode:
    """:func:`with_own_keys`, once SCALEPRIOR.DATASETS and the sets ``names`` are registered, and are there.

    Raises:
        UserError: as ``register_datasets``.
    """
    cfg = with_own_keys(cfg)
    asked = cfg.clone()
    asked.defrost()
    asked.DATASETS.TRAIN, asked.DATASETS.TEST = tuple(names), ()
    register_datasets(asked)
    return cfg


def ready(cfg: CfgNode) -> CfgNode:
    """What a trainer builds from: with our keys and sets, a device, and scaled to the processes.

    Names of sets that are not ours are left to the loaders that read them, which may be the user's.

    Raises:
        UserError: as :func:`with_sets` and :func:`scaled`.
    """
    ours = (*own_sets(with_own_keys(cfg)), *MINIVAL_SETS)
    named = dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    cfg = with_sets(cfg, [name for name in named if name in ours])
    if cfg.MODEL.DEVICE == "auto":
        cfg = _changed(cfg, _choose_device)
    return scaled(cfg)


def scaled(cfg: CfgNode) -> CfgNode:
    """The config for the processes that there are, where SOLVER.REFERENCE_WORLD_SIZE says for how many it is meant.

    Detectron2's own arithmetic: batch and learning rate grow with the processes, steps become fewer.

    Raises:
        UserError: the batch cannot be shared out among so many.
    """
    check_reference(cfg)
    return DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())


def _choose_device(cfg: CfgNode) -> None:
    cfg.MODEL.DEVICE = str(resolve_device(cfg.MODEL.DEVICE))


def _changed(cfg: CfgNode, change: Callable[[CfgNode], object]) -> CfgNode:
    """A copy of ``cfg`` after ``change``, frozen as it is."""
    copy = cfg.clone()
    frozen = copy.is_frozen()
    copy.defrost()
    change(copy)
    if frozen:
        copy.freeze()
    return copy


@contextlib.contextmanager
def ddp_on_cpu(device: str) -> Iterator[None]:
    """Around building a trainer: Detectron2 hands every model that is trained in several processes to a GPU, which
    torch refuses for one on the CPU; no argument of its trainers reaches that call."""
    make = defaults.create_ddp_model
    if torch.device(device).type == "cpu":
        defaults.create_ddp_model = functools.partial(make, device_ids=None)
    try:
        yield
    finally:
        defaults.create_ddp_model = make
