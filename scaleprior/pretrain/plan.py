"""What a pretraining config will make, known before anything is trained: whether it can, and the card it will write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.card import Card
from scaleprior.backbones.contract import check_contract
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.backbones.trunks.published import CARD_FACTS, Origin
from scaleprior.backbones.trunks.selection import config_eps, spec_from_config
from scaleprior.backbones.trunks.trunk import build_trunk
from scaleprior.backbones.weights import read_card
from scaleprior.config.batch import settled
from scaleprior.config.keys.key import PRETRAINING
from scaleprior.config.seed import run_seed
from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.pretrain.data.batches import held_out_rows
from scaleprior.pretrain.data.sizes import size_pairs
from scaleprior.pretrain.recipe import check_config, check_shares, recipe_fingerprint, recipe_of, training_images

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = [
    "check_device",
    "check_mode",
    "check_pretraining",
    "parent_card",
    "planned_card",
    "run_identity",
    "run_parts",
]


_OF_THE_RUN = Origin("file", "the config of the run that trained it")
"""Of all facts, also where a parent's were assumed: these weights did see such pixels, through such norms."""


def check_pretraining(cfg: CfgNode, *, processes: int = 1) -> Card:
    """Refuse what a run would refuse, as far as the config alone tells it; returns :func:`planned_card`.

    Args:
        processes: that share out a batch.

    Raises:
        UserError: names the key and its value.
    """
    card = planned_card(cfg)
    check_shares(cfg, processes)
    parent_card(cfg)
    check_device(cfg, cfg.MODEL.DEVICE)  # "auto" is settled where the run is: it may have a GPU that is not here
    return card


def planned_card(cfg: CfgNode, name: str = "the planned backbone") -> Card:
    """The card of the backbone that ``cfg`` makes, without what only the run can tell (images, steps, hashes).

    What a detector's config must agree with stands in it, so that a study can refuse before it has paid.

    Raises:
        UserError: the config cannot be pretrained; names the key and its value.
    """
    check_config(cfg)
    return Card(
        name=name,
        arch=_spec(cfg),
        pixel_mean=tuple(cfg.MODEL.PIXEL_MEAN),
        pixel_std=tuple(cfg.MODEL.PIXEL_STD),
        channel_order=cfg.INPUT.FORMAT,
        norm_eps=config_eps(cfg),  # pyright: ignore[reportArgumentType] (None becomes the family's)
        facts=dict.fromkeys(CARD_FACTS, _OF_THE_RUN),
        input_size=cfg.PRETRAIN.INPUT.SIZE,
        seed=run_seed(cfg),
        source="scaleprior pretrain",
    )


def _spec(cfg: CfgNode) -> TrunkSpec:
    """The trunk of the config, as detection chooses it.

    Raises:
        UserError: no such trunk, or one that crops of this size leave no place of.
    """
    spec, size = spec_from_config(cfg), cfg.PRETRAIN.INPUT.SIZE
    if cfg.PRETRAIN.DROP_PATH:
        with torch.device("meta"):
            build_trunk(spec).set_drop_path(cfg.PRETRAIN.DROP_PATH)  # refused where it has no such blocks
    smallest = min((side for _, side in size_pairs(cfg)), default=size)
    if smallest < min(size, spec.family.least_side):
        raise UserError(
            f"PRETRAIN.INPUT.PROGRESSIVE has the size {smallest}; {spec.name} leaves nothing of so few pixels",
            hint=f"take sizes of {spec.family.least_side} or more",
        )
    if size < spec.family.least_side:
        raise UserError(
            f"PRETRAIN.INPUT.SIZE is {size}; {spec.name} leaves nothing of so few pixels",
            hint=f"set PRETRAIN.INPUT.SIZE and RESIZE to {spec.family.least_side} or more",
        )
    return spec


def parent_card(cfg: CfgNode) -> Card | None:
    """Card of the backbone to start from, checked against the config; None = fresh weights.

    Raises:
        UserError: ``MODEL.WEIGHTS`` cannot be read or does not fit the config; prints the override lines.
    """
    if not cfg.MODEL.WEIGHTS:
        return None
    card = read_card(canonical_file(cfg.MODEL.WEIGHTS))
    mismatches = check_contract(cfg, card)
    if mismatches:
        said = ", ".join(f"{m.key} is {m.config_value!r}" for m in mismatches)
        raise UserError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} does not fit the config: {said}",
            hint="use " + " ".join(m.override for m in mismatches),
        )
    return card


def run_identity(cfg: CfgNode, corpus: Corpus, *, processes: int = 1) -> dict[str, Any]:
    """What tells whether two runs are the same run: hashes of the data, of the backbone to go on from, the number of
    processes, and with the recipe all of them as one "fingerprint".

    Args:
        corpus: that of ``PRETRAIN.CORPUS``.

    Raises:
        UserError: as :func:`training_images`, ``batches.held_out_rows`` and :func:`parent_card`.
    """
    cfg = settled(cfg, processes)
    held_out, parent = held_out_rows(cfg, corpus), parent_card(cfg)
    facts = {
        "corpus": corpus.prefix_fingerprint(training_images(cfg, len(corpus))),
        "held_out": None if held_out is None else held_out[0].fingerprint,
        "processes": processes if cfg.PRETRAIN.PROCESSES == "fixed" else "any",
        "parent": None if parent is None else parent.tensors_sha256,
    }
    return {"fingerprint": recipe_fingerprint(cfg, **facts), **facts}


def run_parts(cfg: CfgNode, corpus: Corpus, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What the fingerprint of a run is made of, for ``RunFolder.made_of``.

    Args:
        identity: :func:`run_identity` of the same config and corpus.
    """
    space, held_out = corpus.label_space, held_out_rows(cfg, corpus)
    parent = identity["parent"]
    return {
        "engine": PRETRAINING,
        "label space": {"fingerprint": space.fingerprint, "labels": len(space)},
        "config": recipe_of(cfg),
        "corpus": {"fingerprint": identity["corpus"], "images": training_images(cfg, len(corpus))},
        "held-out set": None
        if held_out is None
        else {"fingerprint": identity["held_out"], "images": len(held_out[0]) - held_out[1]},
        "backbone to start from": None if parent is None else {"fingerprint": parent},
        "number of processes": identity["processes"],
    }


def check_device(cfg: CfgNode, device: str) -> None:
    """Raises UserError for mixed precision, or the GPU's decoder, on a ``device`` "cpu"."""
    # Measured with torch 2.15 on one CPU thread: two equal runs in bfloat16 differed, so no resume could be exact.
    if cfg.PRETRAIN.AMP == "bf16" and device == "cpu":
        raise UserError(
            'PRETRAIN.AMP is "bf16" on a CPU, where bfloat16 runs do not repeat to the bit',
            hint="use PRETRAIN.AMP off, or a GPU",
        )
    if cfg.PRETRAIN.LOADER.DECODE == "gpu" and device == "cpu":
        raise UserError("PRETRAIN.LOADER.DECODE is 'gpu' on a CPU", hint="use PRETRAIN.LOADER.DECODE cpu, or a GPU")
    check_mode(cfg, device)


def check_mode(cfg: CfgNode, device: str, *, joined: bool = False) -> None:
    """Refuse a ``PRETRAIN.STEP.MODE`` that the rest of the config, or the place of the run, has no use for.

    Args:
        device: "cpu", or something else.
        joined: this process is one of a group, be it the only one.

    Raises:
        UserError: names the key, and what to take.
    """
    mode = cfg.PRETRAIN.STEP.MODE
    if not mode.endswith("graph"):
        return
    plain = "compile" if mode.startswith("compile") else "eager"
    if device == "cpu":
        raise UserError(f"PRETRAIN.STEP.MODE is {mode!r} on a CPU, which has no CUDA graphs", hint=f"take {plain}")
    if cfg.PRETRAIN.OPTIMIZER.NAME == "lamb":
        raise UserError(
            f"PRETRAIN.STEP.MODE is {mode!r} with PRETRAIN.OPTIMIZER.NAME lamb, which counts its steps on the host",
            hint=f"take MODE {plain}, or another optimiser",
        )
    if joined:
        # torch's notes on CUDA graphs ask of DDP, among others, that NCCL's watch over errors is off: a lost process
        # would be waited for for ever.
        raise UserError(
            f"PRETRAIN.STEP.MODE is {mode!r} in a process of a group", hint="take compile, or one process by itself"
        )
