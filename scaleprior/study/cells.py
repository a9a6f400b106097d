"""The cells of a study: (architecture, arm, fraction, seed), what determines their results, and the hash of that."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.contract import NORM_EPS, apply_card
from scaleprior.backbones.trunks.selection import config_eps, is_timm_config, spec_from_config
from scaleprior.config import LoadedConfig
from scaleprior.config.dotted import flat_config
from scaleprior.config.fingerprint import cell_settings
from scaleprior.corpus import Corpus
from scaleprior.detect.engines import get_engine
from scaleprior.detect.plan import starts_from_detector
from scaleprior.errors import UserError
from scaleprior.places import check_name
from scaleprior.pretrain.plan import check_pretraining, parent_card, run_identity
from scaleprior.pretrain.recipe import training_images
from scaleprior.study.arms import arms_of, check_arms, finetune_stage, pretrain_stage
from scaleprior.study.cell import Cell, CellData, Noise
from scaleprior.study.prepare import StudyData
from scaleprior.study.rungs import Rung
from scaleprior.study.spec import StudySpec

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = [
    "CellConfigs",
    "Draft",
    "check_cells",
    "draft_cells",
    "fine_tuning_work",
    "key_cells",
    "plan_cells",
]

# Raise it when the code changes what a cell computes: finished cells of older versions are then not taken for new ones.
_RECIPE_VERSION = 1


@dataclass(frozen=True)
class Draft:
    """A cell without its keys, and what those are made of.

    Attributes:
        learner, detector: configs of the stages.
        settled: the detector's config once its backbone's card has been applied.
        rung: the backbone, where it exists already.
    """

    cell: Cell
    learner: LoadedConfig | None
    detector: LoadedConfig
    settled: CfgNode
    rung: Rung | None

    @property
    def work(self) -> tuple[int, int]:
        """See :func:`fine_tuning_work`."""
        return fine_tuning_work(self.settled)


def fine_tuning_work(cfg: CfgNode) -> tuple[int, int]:
    """Steps of a cell's fine-tuning, and images a step.

    A cell is one process: where SOLVER.REFERENCE_WORLD_SIZE (of the detectron2 engine) says that the config is meant
    for more, Detectron2 takes as many steps for the images of one.
    """
    meant_for = max(cfg.SOLVER.get("REFERENCE_WORLD_SIZE", 0), 1)
    return cfg.SOLVER.MAX_ITER * meant_for, round(cfg.SOLVER.IMS_PER_BATCH / meant_for)


def plan_cells(spec: StudySpec, data: StudyData, engine: str) -> list[Cell]:
    """All cells of a study, architecture by architecture, arm by arm, up the ladder, seed by seed.

    Loads every config and holds both stages against those who will run them and against each other, so that a wrong
    key, a trunk that cannot be pretrained or a backbone that fine-tuning would not take is known before anything
    trains.

    Raises:
        UserError: see :func:`scaleprior.config.load_config`; a config that its stage cannot honour; a ladder that
            climbs above the corpus; two architectures, or two arms, that are the same; see :func:`check_arms`.
    """
    if spec.ladder and spec.ladder[-1] > data.corpus_images:
        raise UserError(
            f"ladder of {spec.source} asks for {spec.ladder[-1]} images, the corpus has {data.corpus_images}",
            hint="lower the ladder or add images",
        )
    return key_cells(spec, data, list(draft_cells(spec, data, engine)))


def key_cells(spec: StudySpec, data: StudyData, drafts: Sequence[Draft]) -> list[Cell]:
    """The cells of drafts, with their keys.

    Raises:
        UserError: two architectures that are the same network; see :func:`plan_cells`.
    """
    shortest = min(math.prod(draft.work) for draft in drafts)
    cells = [_keyed(spec, data, draft, shortest) for draft in drafts]
    by_key: dict[str, Cell] = {}
    for cell in cells:
        twin = by_key.setdefault(cell.key, cell)
        if twin is not cell and twin.arch == cell.arch:
            raise UserError(
                f"backbones.{cell.arch} of {spec.source}: {Path(twin.weights).name} and {Path(cell.weights).name} hold "
                "the same tensors",
                hint="keep one",
            )
        if twin is not cell:
            raise UserError(
                f"architectures {twin.arch!r} and {cell.arch!r} of {spec.source} are the same network",
                hint="remove one, or correct its overrides"
                + (f", or leave it out of the architectures of arm {cell.arm}" if cell.arm else ""),
            )
    return cells


def draft_cells(
    spec: StudySpec, data: StudyData, engine: str, *, absent: Mapping[str, Sequence[int]] | None = None
) -> Iterator[Draft]:
    """What :func:`plan_cells` plans, before the content of corpora and detection sets is asked for.

    Args:
        absent: of each architecture, images of the backbones that are still to come; their cells have no weights.

    Raises:
        UserError: as :func:`plan_cells`.
    """
    check_arms(spec)
    for arch in spec.architectures:
        ladder = _ladder(spec, data, arch, (absent or {}).get(arch, ()))
        known: dict[tuple[int, str], str] = {}
        for arm, images, rung in _kinds(spec, arch, ladder):
            for seed in spec.seeds:
                draft = _draft(spec, data, engine, arch, arm, images, seed, rung)
                if seed == spec.seeds[0]:
                    _refuse_twin_arms(spec, draft, known)
                yield draft


def _kinds(
    spec: StudySpec, arch: str, ladder: Sequence[tuple[int, Rung | None]]
) -> Iterator[tuple[str, int, Rung | None]]:
    """What the cells of an architecture may be, but for their seeds: arm, images, backbone that exists."""
    for arm in spec.arms or ("",):
        yield from ((arm, images, rung) for images, rung in ladder if arm in arms_of(spec, arch, images))


def _refuse_twin_arms(spec: StudySpec, draft: Draft, known: dict[tuple[int, str], str]) -> None:
    """Raises UserError: this cell would measure the same as that of another arm in ``known``, to which it is added."""
    if not spec.arms:
        return
    # not by the cells' keys, into which it enters who said a setting
    settings = _short_hash(cell_settings(draft.settled, (), "finetune"))
    arm = draft.cell.arm
    twin = known.setdefault((draft.cell.images, settings), arm)
    if twin != arm:
        raise UserError(
            f"arms {twin!r} and {arm!r} of {spec.source} come to the same config for architecture {draft.cell.arch}",
            hint="remove one, or correct its pieces and overrides",
        )


def _ladder(spec: StudySpec, data: StudyData, arch: str, absent: Sequence[int] = ()) -> list[tuple[int, Rung | None]]:
    scratch: list[tuple[int, Rung | None]] = [(0, None)] if spec.scratch else []
    there = [(rung.images, rung) for rung in data.backbones.get(arch, ())]
    to_come: list[tuple[int, Rung | None]] = [(images, None) for images in absent]
    rungs = sorted([*there, *to_come], key=lambda rung: rung[0])
    return [*scratch, *((n, None) for n in spec.ladder), *rungs]


@dataclass(frozen=True)
class CellConfigs:
    """The configs of one kind of cell."""

    arm: str
    learner: LoadedConfig | None
    detector: LoadedConfig


def check_cells(spec: StudySpec, data: StudyData, engine: str, arch: str) -> Iterator[CellConfigs]:
    """The configs of each kind of cell of an architecture: for one seed, and of the ladder the top.

    They are held against those who will run them, as :func:`plan_cells` does it; the corpus need not be there yet.

    Raises:
        UserError: see :func:`plan_cells`.
    """
    ladder = _ladder(replace(spec, ladder=spec.ladder[-1:]), data, arch)
    known: dict[tuple[int, str], str] = {}
    for arm, images, rung in _kinds(spec, arch, ladder):
        draft = _draft(spec, data, engine, arch, arm, images, spec.seeds[0], rung)
        _refuse_twin_arms(spec, draft, known)
        yield CellConfigs(arm, draft.learner, draft.detector)


def _draft(
    spec: StudySpec, data: StudyData, engine: str, arch: str, arm: str, images: int, seed: int, rung: Rung | None
) -> Draft:
    pretrain = pretrain_stage(spec, arch) if images else None
    cell = Cell(
        key="",
        arch=arch,
        images=images,
        seed=seed,
        engine=engine,
        threads=spec.threads,
        pretrain=pretrain,
        finetune=finetune_stage(spec, arch, arm),
        data=CellData("" if data.corpus is None else str(data.corpus.absolute()), data.train, data.val),
        noise=Noise(**spec.noise) if pretrain is not None else None,
        weights=str(rung.weights) if rung else "",
        weights_sha256=rung.card.tensors_sha256 if rung else "",
        arm=arm,
    )
    where = f"study spec {spec.source}: architecture {arch}" + (f", arm {arm}" if arm else "")
    check_name(f"{cell.folder_name}{'0' * 8}", what=f"{where}: the folder of a cell")
    try:
        detector, learner = cell.finetune_config(), cell.pretrain_config()
    except UserError as e:
        if not arm:
            raise
        raise UserError(f"{where}: {e}") from e
    settled = _check_stages(where, cell, learner, data.corpus_images, rung, detector)
    return Draft(cell, learner, detector, settled, rung)


def _keyed(spec: StudySpec, data: StudyData, draft: Draft, shortest: int) -> Cell:
    """The cell with its keys.

    Args:
        shortest: images that the shortest fine-tuning of the study sees.
    """
    cell, learner, detector, rung = draft.cell, draft.learner, draft.detector, draft.rung
    # The contract's "which keys did somebody set" is part of what determines a detector, so it is hashed as well.
    stages = {"finetune": cell_settings(detector.cfg, detector.explicit, "finetune")}
    if learner is not None:
        stages["pretrain"] = cell_settings(learner.cfg, learner.explicit, "pretrain")
    determinants = {
        "version": _RECIPE_VERSION,
        "stages": stages,
        "corpus": data.corpus_fingerprint if learner else None,
        "detection": data.detection_fingerprint,
        "engine": cell.engine,
        "threads": spec.threads,
    }
    pretraining = ""
    if learner is not None:
        if (held_out := learner.cfg.PRETRAIN.HELD_OUT).CORPUS and held_out.IMAGES:
            determinants["held_out"] = Corpus.open(held_out.CORPUS).fingerprint
        if (parent := parent_card(learner.cfg)) is not None:
            determinants["parent"] = parent.tensors_sha256
        pretraining = _pretraining(learner, spec.threads)
    if rung is not None:
        determinants["backbone"] = _backbone(rung, detector)
    tuning = math.prod(draft.work) / max(shortest, 1)
    cost = _depth(rung, learner, detector) * (tuning + bool(learner)) + cell.images * 1e-9
    return replace(cell, key=_short_hash(determinants), pretraining=pretraining, cost=cost)


def _pretraining(learner: LoadedConfig, threads: int) -> str:
    """Identity of the backbone alone: what is done with it later, and with which data, may change."""
    cfg = learner.cfg
    run = run_identity(cfg, Corpus.open(cfg.PRETRAIN.CORPUS))["fingerprint"]
    # beside what the run itself is held to: on another device, or with other threads, its last bits differ
    return _short_hash({"version": _RECIPE_VERSION, "run": run, "threads": threads, "device": cfg.MODEL.DEVICE})


def _short_hash(determinants: Mapping[str, Any]) -> str:
    text = json.dumps(determinants, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _depth(rung: Rung | None, learner: LoadedConfig | None, detector: LoadedConfig) -> int:
    """Of the trunk, as far as the backbone or the configs tell: what another's builder makes is not known here."""
    if rung is not None:
        return rung.card.arch.depth
    cfg = (learner or detector).cfg
    return spec_from_config(cfg).depth if is_timm_config(cfg) else cfg.MODEL.RESNETS.DEPTH


def _check_stages(
    where: str,
    cell: Cell,
    learner: LoadedConfig | None,
    corpus_images: int,
    rung: Rung | None,
    detector: LoadedConfig,
) -> CfgNode:
    """Hold a cell's configs against the code and the corpus they will meet, and the backbone against the detector.

    Returns:
        The detector's config as the backbone's card wants it.

    Raises:
        UserError: what a stage would refuse once its turn came; names the architecture and the key.
    """
    try:
        if starts_from_detector(detector.cfg):
            raise UserError(
                f"SCALEPRIOR.START is {detector.cfg.SCALEPRIOR.START!r} ({detector.source}): such a detector counts no "
                "images of pretraining",
                hint="leave the key out: a study's cells start from backbones",
            )
        card = rung.card if rung is not None else None
        if learner is not None:
            card = check_pretraining(learner.cfg)
            training_images(learner.cfg, corpus_images)
        elif not cell.images and detector.cfg.MODEL.WEIGHTS:
            raise UserError(
                f"a cell from scratch would start from MODEL.WEIGHTS {detector.cfg.MODEL.WEIGHTS} ({detector.source})",
                hint="leave scratch out (scratch: false), or empty that key in finetune.overrides",
            )
        settled = detector.cfg if card is None else apply_card(detector, card)
        get_engine(cell.engine).check_config(settled)
    except UserError as e:
        raise UserError(f"{where}: {e}") from e
    return settled


def _backbone(rung: Rung, loaded: LoadedConfig) -> dict[str, Any]:
    """What of a backbone determines a result: its tensors and what the contract makes of its card, not its path.

    Raises:
        UserError: the fine-tuning config contradicts the card; prints the words to use.
    """
    cfg = apply_card(loaded, rung.card)
    keys = ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT", "MODEL.BACKBONE.NAME")
    contract = {k: v for k, v in flat_config(cfg) if k in keys or k.startswith(("MODEL.RESNETS.", "MODEL.TIMM."))}
    if config_eps(cfg) is not None:  # a later key, which at its default enters no hash
        contract[NORM_EPS] = cfg.MODEL.NORM_EPS
    return {"tensors_sha256": rung.card.tensors_sha256, "contract": contract}
