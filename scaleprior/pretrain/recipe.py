"""Checks of what pretraining reads of a config, and the hash that tells whether two runs are the same run."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from scaleprior.config.batch import settled
from scaleprior.config.fingerprint import recipe_settings
from scaleprior.config.keys.key import PRETRAINING
from scaleprior.config.keys.table import check_values
from scaleprior.config.seed import run_seed
from scaleprior.errors import UserError
from scaleprior.pretrain.data.sizes import size_pairs
from scaleprior.wording import either

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["check_config", "check_shares", "recipe_fingerprint", "recipe_of", "training_images"]

# Detectron2's keys of MODEL.RESNETS for trunks that we do not train, at the defaults that mean a plain ResNet.
_NOT_PLAIN = {
    "DEFORM_ON_PER_STAGE": [False, False, False, False],
    "DEFORM_MODULATED": False,
    "DEFORM_NUM_GROUPS": 1,
    "RES5_DILATION": 1,
}


def check_config(cfg: CfgNode) -> None:
    """Raises UserError naming the key, its value and what is legal, for every value pretraining cannot take."""
    if cfg.MODEL.RESNETS.NORM not in ("BN", "GN", "LN"):  # whether one of these fits, the trunk's family says
        raise UserError(
            f"MODEL.RESNETS.NORM is {cfg.MODEL.RESNETS.NORM!r}: pretraining needs a norm that learns, in each process",
            hint="set MODEL.RESNETS.NORM to BN, GN or LN, whichever the trunk has",
        )
    check_values(cfg, PRETRAINING)
    node = settled(cfg).PRETRAIN  # more processes make the batch no smaller
    if node.INPUT.RESIZE < node.INPUT.SIZE:
        raise UserError(
            f"PRETRAIN.INPUT.RESIZE is {node.INPUT.RESIZE}, smaller than the crops of SIZE {node.INPUT.SIZE}",
            hint="set RESIZE to SIZE or more",
        )
    for name, plain in _NOT_PLAIN.items():
        value = cfg.MODEL.RESNETS.get(name, plain)
        if value != plain:
            raise UserError(
                f"MODEL.RESNETS.{name} is {value!r}: plain ResNets are pretrained", hint=f"set it to {plain}"
            )
    if node.BATCH_SIZE == 1 and _smallest(cfg) <= 32 and cfg.MODEL.RESNETS.NORM == "BN":
        raise UserError(
            "PRETRAIN.BATCH_SIZE 1 with PRETRAIN.INPUT.SIZE up to 32 leaves BN one value per channel",
            hint="enlarge either",
        )
    if node.NORM_STATISTICS == "all" and cfg.MODEL.RESNETS.NORM != "BN":
        raise UserError(
            f"PRETRAIN.NORM_STATISTICS is 'all' with MODEL.RESNETS.NORM {cfg.MODEL.RESNETS.NORM}, whose statistics are "
            "each image's own",
            hint="set PRETRAIN.NORM_STATISTICS to process",
        )
    if node.HEAD.SHARDED and node.OPTIMIZER.NAME == "lamb":
        raise UserError(
            "PRETRAIN.HEAD.SHARDED with PRETRAIN.OPTIMIZER.NAME lamb, whose rate of a layer follows the norm of all of "
            "it",
            hint="take sgd, rmsprop or adamw",
        )
    _check_freezing(cfg)
    if node.EVAL.PERIOD and not node.HELD_OUT.IMAGES and not node.PROBE.CORPUS:
        raise UserError(
            f"PRETRAIN.EVAL.PERIOD is {node.EVAL.PERIOD}, and there is nothing to measure on",
            hint="set PRETRAIN.HELD_OUT.IMAGES or PRETRAIN.PROBE.CORPUS, or PRETRAIN.EVAL.PERIOD 0",
        )
    if not node.CORPUS:
        index = either("corpus=FOLDER", "PRETRAIN.CORPUS FOLDER")
        raise UserError("PRETRAIN.CORPUS is not set", hint=f"give the index folder: {index}")


def check_shares(cfg: CfgNode, processes: int) -> None:
    """Raises UserError where a batch of ``cfg`` is too small to be shared out to so many processes."""
    if cfg.PRETRAIN.PROCESSES == "any" and cfg.PRETRAIN.BATCH_PER_PROCESS:
        raise UserError(
            f"PRETRAIN.PROCESSES is 'any' with PRETRAIN.BATCH_PER_PROCESS {cfg.PRETRAIN.BATCH_PER_PROCESS}: with other "
            "processes it would be another batch",
            hint="set PRETRAIN.BATCH_SIZE instead",
        )
    node = settled(cfg, processes).PRETRAIN
    share, said = node.BATCH_SIZE // processes, f"PRETRAIN.BATCH_SIZE is {node.BATCH_SIZE} with {processes} processes"
    if not share:
        raise UserError(f"{said}, of which some would have no image", hint="enlarge it, or take fewer processes")
    alone = cfg.MODEL.RESNETS.NORM == "BN" and node.NORM_STATISTICS == "process" and _smallest(cfg) <= 32
    if processes > 1 and share == 1 and alone:
        raise UserError(
            f"{said} and PRETRAIN.INPUT.SIZE up to 32, which leaves BN one value per channel",
            hint="enlarge either, take fewer processes, or set PRETRAIN.NORM_STATISTICS to all",
        )
    parts = max(share // 2, 1)  # BN has no variance of one
    if parts < node.ACCUMULATE:
        raise UserError(
            f"PRETRAIN.ACCUMULATE is {node.ACCUMULATE}, with {share} images for a process: a part has 2 or more",
            hint=f"set PRETRAIN.ACCUMULATE to at most {parts}, or enlarge PRETRAIN.BATCH_SIZE",
        )


def _smallest(cfg: CfgNode) -> int:
    """Side of the smallest images of a run, in pixels."""
    return min([side for _, side in size_pairs(cfg)], default=cfg.PRETRAIN.INPUT.SIZE)


def _check_freezing(cfg: CfgNode) -> None:
    node = cfg.PRETRAIN
    if node.FREEZE == "none":
        return
    if not cfg.MODEL.WEIGHTS:
        raise UserError(
            f"PRETRAIN.FREEZE is {node.FREEZE!r} without MODEL.WEIGHTS: a fresh trunk would stay as it is",
            hint="set MODEL.WEIGHTS to a backbone, or PRETRAIN.FREEZE none",
        )
    for name, off in (("DROP_PATH", 0.0), ("NORM_STATISTICS", "process")):
        if node[name] != off:
            raise UserError(
                f"PRETRAIN.{name} is {node[name]!r} with PRETRAIN.FREEZE {node.FREEZE}: it has no effect on a trunk "
                "that does not learn",
                hint=f"set PRETRAIN.{name} {off}, or PRETRAIN.FREEZE none",
            )


def training_images(cfg: CfgNode, corpus_images: int) -> int:
    """How many images ``cfg.PRETRAIN`` trains on, the first of a corpus of ``corpus_images``.

    Raises:
        UserError: none are left, more than the corpus has, or some that are held out; names the keys.
    """
    fraction, held_out = cfg.PRETRAIN.FRACTION, cfg.PRETRAIN.HELD_OUT
    tail = 0 if held_out.CORPUS else held_out.IMAGES
    if fraction.IMAGES and fraction.RATIO:
        raise UserError(
            f"PRETRAIN.FRACTION has IMAGES {fraction.IMAGES} and RATIO {fraction.RATIO}", hint="set one of them"
        )
    if tail >= corpus_images:
        raise UserError(
            f"PRETRAIN.HELD_OUT.IMAGES is {tail}, of a corpus of {corpus_images}",
            hint="make it smaller (0: evaluate on none), or give PRETRAIN.HELD_OUT.CORPUS",
        )
    images = round(fraction.RATIO * corpus_images) if fraction.RATIO else fraction.IMAGES or corpus_images - tail
    if images < 1 or images > corpus_images:
        raise UserError(
            f"PRETRAIN.FRACTION asks for {images} images, besides {tail} held out, of a corpus of {corpus_images}",
            hint="set PRETRAIN.FRACTION.IMAGES or RATIO to what the corpus has",
        )
    if images + tail > corpus_images:
        raise UserError(
            f"{images} images to train on and the last {tail} to evaluate on overlap in a corpus of {corpus_images} "
            "images",
            hint="make the fraction or PRETRAIN.HELD_OUT.IMAGES smaller, or give PRETRAIN.HELD_OUT.CORPUS",
        )
    return images


def recipe_of(cfg: CfgNode) -> dict[str, Any]:
    """What decides the weights, as nested JSON-ready mappings: the settings without paths and bookkeeping.

    One run is the same run, whether Detectron2's config describes it or ours.
    """
    return {**recipe_settings(cfg), "SEED": run_seed(cfg)}


def recipe_fingerprint(cfg: CfgNode, **facts: Any) -> str:
    """SHA-256 (hex) of :func:`recipe_of` and of ``facts`` (fingerprints, number of processes)."""
    text = json.dumps({"recipe": recipe_of(cfg), **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
