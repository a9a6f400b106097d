"""What Detectron2 meets with an assertion, or an error of Python's, said as one line that names the key."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.utils import comm
from torch import distributed

from scaleprior.backbones.trunks.selection import check_model_is_read, is_timm_config, spec_from_config
from scaleprior.config.dotted import flat_config
from scaleprior.d2.backends import check_backends
from scaleprior.detect.faster_rcnn.keys import check_box_head
from scaleprior.detect.precision import amp_dtype
from scaleprior.errors import ScalePriorError, UserError

# What its readers of data sets raise for a file or a package that is missing, and for a broken file.
_OF_DATA = (FileNotFoundError, ImportError, SyntaxError)

__all__ = ["check_builders", "check_keys", "check_solver", "detectron2_refuses"]


def check_solver(cfg: CfgNode) -> None:
    """Refuse a schedule or a machine that Detectron2 cannot train on.

    Raises:
        UserError: names the key and its value.
    """
    for key, least in (("MAX_ITER", 1), ("IMS_PER_BATCH", 1), ("CHECKPOINT_PERIOD", 0)):
        if cfg.SOLVER[key] < least:
            raise UserError(f"SOLVER.{key} is {cfg.SOLVER[key]}", hint=f"give {least} or more")
    on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
    if on_cpu and cfg.SOLVER.AMP.ENABLED:
        raise UserError(
            "SOLVER.AMP.ENABLED is True with MODEL.DEVICE cpu; Detectron2 mixes precision on GPUs only",
            hint="use SOLVER.AMP.ENABLED False",
        )
    amp_dtype(cfg, torch.device(cfg.MODEL.DEVICE))
    synced = [key for key, value in flat_config(cfg.MODEL, "MODEL.") if key.endswith(".NORM") and value == "SyncBN"]
    if synced and on_cpu and comm.get_world_size() > 1:
        raise UserError(
            f"{synced[0]} is 'SyncBN' in {comm.get_world_size()} processes with MODEL.DEVICE cpu; torch synchronises "
            "BN on GPUs only",
            hint=f"use {synced[0]} BN, or one process",
        )
    if on_cpu and comm.get_world_size() > 1 and distributed.get_backend() == "nccl":
        raise UserError(
            f"{comm.get_world_size()} processes that were started for GPUs, with MODEL.DEVICE cpu",
            hint="start them with CUDA_VISIBLE_DEVICES set to nothing, as tools/train_net.py does",
        )


def check_keys(cfg: CfgNode, *, training: bool) -> None:
    """Refuse keys that are set and that nothing would read: proposal files, and a precision that torch does not know.

    Args:
        training: the keys of training count, too.

    Raises:
        UserError: names the key and its value.
    """
    check_backends(cfg)
    generator, load = cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MODEL.LOAD_PROPOSALS
    if load and generator in ("RPN", "RRPN"):
        raise UserError(
            f"MODEL.LOAD_PROPOSALS is True, and MODEL.PROPOSAL_GENERATOR.NAME {generator} makes proposals of its own",
            hint="use MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals, or MODEL.LOAD_PROPOSALS False",
        )
    if not load and generator == "PrecomputedProposals":
        raise UserError(
            f"MODEL.PROPOSAL_GENERATOR.NAME is {generator}, and MODEL.LOAD_PROPOSALS is False",
            hint="use MODEL.LOAD_PROPOSALS True and name their files in DATASETS.PROPOSAL_FILES_TRAIN and _TEST",
        )
    for role in ("TRAIN", "TEST") if training else ("TEST",):
        key, sets = f"DATASETS.PROPOSAL_FILES_{role}", cfg.DATASETS[role]
        files = cfg.DATASETS[f"PROPOSAL_FILES_{role}"]
        if files and not load:
            raise UserError(f"{key} is set, and MODEL.LOAD_PROPOSALS is False", hint=f"leave {key} out, or load them")
        if load and len(files) != len(sets):
            raise UserError(
                f"{key} names {len(files)} files, DATASETS.{role} {len(sets)} sets", hint="name one file for each set"
            )
        gone = [file for file in files if "://" not in file and not os.path.isfile(file)]
        if gone:
            raise UserError(f"{key}: no file {gone[0]}", hint="check the path")


def check_builders(cfg: CfgNode) -> None:
    """Refuse a detector or a backbone that nobody registered, a trunk that MODEL.TIMM.MODEL cannot name or the
    builder would not take from there, and a box head that the heads would not use.

    Raises:
        UserError: names the key and its value.
    """
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
    ):
        if name not in registry:
            known = ", ".join(sorted(name for name, _ in registry))
            raise UserError(f"{key} is {name!r}, which Detectron2 does not know", hint=f"registered: {known}")
    check_model_is_read(cfg)
    check_box_head(cfg)
    if is_timm_config(cfg):
        spec_from_config(cfg)


@contextlib.contextmanager
def detectron2_refuses() -> Iterator[None]:
    """Around the building of a model, a loader or a solver from a config: say what Detectron2 does not take.

    Raises:
        UserError: in place of the errors that Detectron2's builders raise for names and values they do not know.
    """
    try:
        yield
    except ScalePriorError:
        raise
    except (AssertionError, AttributeError, KeyError, NotImplementedError, TypeError, ValueError, *_OF_DATA) as e:
        place = traceback.extract_tb(e.__traceback__)[-1]
        said = e.args[0] if e.args and not isinstance(e, _OF_DATA) else e
        text = " ".join(str(said).split())
        # Many of its assertions have no text, or but a value; their line has the names.
        where = f"{place.name}: {place.line}" if isinstance(e, AssertionError) else place.name
        raise UserError(
            f"Detectron2 cannot build what the config describes: {text or 'see'} ({type(e).__name__} in {where})",
            hint="correct the key that this is about",
        ) from e
