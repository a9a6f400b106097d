"""The cells of a study: (architecture, fraction, seed), all that determines their results, and the hash of that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scaleprior.backbones.contract import NORM_EPS, apply_card
from scaleprior.backbones.trunks.selection import config_eps, is_timm_config, spec_from_config
from scaleprior.config import LoadedConfig, load_config
from scaleprior.config.dotted import flat_config
from scaleprior.config.fingerprint import cell_settings
from scaleprior.config.load import override_config
from scaleprior.corpus import Corpus
from scaleprior.detect.engines import get_engine
from scaleprior.errors import UserError
from scaleprior.files import read_json, write_json
from scaleprior.pretrain.plan import check_pretraining, parent_card, run_identity
from scaleprior.pretrain.recipe import training_images
from scaleprior.study.prepare import StudyData
from scaleprior.study.rungs import Rung
from scaleprior.study.sections import StageSection
from scaleprior.study.spec import StudySpec

__all__ = ["CELL_FILE", "Cell", "CellData", "Noise", "check_cells", "plan_cells"]

CELL_FILE = "cell.json"

# Raise it when the code changes what a cell computes: finished cells of older versions are then not taken for new ones.
_RECIPE_VERSION = 1


@dataclass(frozen=True)
class CellData:
    """Where a cell's data lie, by full paths.

    Attributes:
        corpus: index folder; "" for a cell that does not pretrain.
        train, val: (name, JSON, image root) of the detection sets, as ``SCALEPRIOR.DATASETS`` takes them.
    """

    corpus: str
    train: tuple[str, str, str]
    val: tuple[str, str, str]


@dataclass(frozen=True)
class Noise:
    """How the labels of pretraining are spoilt: the shares, in [0, 1], of wrong and of dropped ones, and the kind."""

    rate: float
    kind: str
    drop: float


@dataclass(frozen=True)
class Cell:
    """One cell, as it is planned and as its process reads it from ``cell.json``.

    Attributes:
        key: 16 hexadecimal digits of the SHA-256 over all that determines the result.
        images: pretraining images; 0 is from scratch.
        engine: a resolved engine name, never ``auto``.
        pretrain, finetune: config and the spec's overrides of each stage; :meth:`pretrain_config` and
            :meth:`finetune_config` set what is the cell's own on top. No ``pretrain`` from scratch and with weights.
        noise: None where there is no ``pretrain``.
        weights, weights_sha256: a backbone that exists already, and the hash of its tensors; "" otherwise.
        pretraining: as ``key``, over what determines the pretrained backbone alone, and nothing of what it is used for;
            "" where there is no ``pretrain``, and in what earlier versions wrote.
        cost: rough relative cost, to start the longest cells first.
    """

    key: str
    arch: str
    images: int
    seed: int
    engine: str
    threads: int
    pretrain: StageSection | None
    finetune: StageSection
    data: CellData
    noise: Noise | None = None
    weights: str = ""
    weights_sha256: str = ""
    pretraining: str = ""
    cost: float = field(compare=False, default=0.0)

    @property
    def folder_name(self) -> str:
        """A name that people can read, made unique by the key."""
        return f"{self.arch}-{self.images or 'scratch'}-seed{self.seed}-{self.key[:8]}"

    @property
    def backbone_name(self) -> str:
        """As :attr:`folder_name`, of its pretraining alone."""
        return f"{self.arch}-{self.images}-seed{self.seed}-{self.pretraining[:8]}"

    def pretrain_config(self) -> LoadedConfig | None:
        """The config of the pretraining stage; None where there is none.

        Raises:
            UserError: see :func:`scaleprior.config.load_config`.
        """
        if self.pretrain is None:
            return None
        assert self.noise is not None
        own = {
            "PRETRAIN.CORPUS": self.data.corpus,
            "PRETRAIN.FRACTION.IMAGES": self.images,
            "PRETRAIN.NOISE.RATE": self.noise.rate,
            "PRETRAIN.NOISE.KIND": self.noise.kind,
            "PRETRAIN.NOISE.DROP": self.noise.drop,
            "SEED": self.seed,
        }
        loaded = load_config(self.pretrain.config, self.pretrain.overrides)
        return override_config(loaded, own.items(), origin="the study")

    def finetune_config(self) -> LoadedConfig:
        """The config of fine-tuning and evaluation.

        Raises:
            UserError: see :func:`scaleprior.config.load_config`.
        """
        own = {
            "SCALEPRIOR.DATASETS": [list(self.data.train), list(self.data.val)],
            "DATASETS.TRAIN": (self.data.train[0],),
            "DATASETS.TEST": (self.data.val[0],),
            "SEED": self.seed,
        }
        defaults = get_engine(self.engine).default_config()
        loaded = load_config(self.finetune.config, self.finetune.overrides, defaults=defaults)
        return override_config(loaded, own.items(), origin="the study")

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Cell:
        """Read what :meth:`to_dict` wrote.

        Raises:
            KeyError, TypeError: something is missing, or unknown.
        """
        data, noise = raw["data"], raw["noise"]
        records = {
            "pretrain": _stage(raw["pretrain"]),
            "finetune": _stage(raw["finetune"]),
            "data": CellData(data["corpus"], tuple(data["train"]), tuple(data["val"])),
            "noise": None if noise is None else Noise(**noise),
        }
        return cls(**{**raw, **records})

    def save(self, folder: Path) -> None:
        """Write ``cell.json``."""
        write_json(folder / CELL_FILE, self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> Cell:
        """Read ``cell.json``.

        Raises:
            UserError: it is not there, or of another version.
        """
        raw = read_json(folder / CELL_FILE, what="cell description")
        try:
            return cls.from_dict(raw)
        except (KeyError, TypeError) as e:
            raise UserError(
                f"{folder / CELL_FILE} is damaged, or of another version: {e}",
                hint="run the study again, it is rewritten",
            ) from e


def _stage(raw: Mapping[str, Any] | None) -> StageSection | None:
    return None if raw is None else StageSection(raw["config"], tuple(raw["overrides"]))


def plan_cells(spec: StudySpec, data: StudyData, engine: str) -> list[Cell]:
    """All cells of a study, architecture by architecture, up the ladder, seed by seed.

    Loads every config and holds both stages against those who will run them and against each other, so that a wrong
    key, a trunk that cannot be pretrained or a backbone that fine-tuning would not take is known before anything
    trains.

    Raises:
        UserError: see :func:`scaleprior.config.load_config`; a config that its stage cannot honour; a ladder that
            climbs above the corpus; two architectures that are the same.
    """
    if spec.ladder and spec.ladder[-1] > data.corpus_images:
        raise UserError(
            f"ladder of {spec.source} asks for {spec.ladder[-1]} images, the corpus has {data.corpus_images}",
            hint="lower the ladder or add images",
        )
    cells = [
        _keyed(spec, data, _planned(spec, data, engine, arch, images, seed, rung))
        for arch in spec.architectures
        for images, rung in _ladder(spec, data, arch)
        for seed in spec.seeds
    ]
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
                hint="remove one, or correct its overrides",
            )
    return cells


def _ladder(spec: StudySpec, data: StudyData, arch: str) -> list[tuple[int, Rung | None]]:
    scratch: list[tuple[int, Rung | None]] = [(0, None)] if spec.scratch else []
    rungs = data.backbones.get(arch, ())
    return [*scratch, *((n, None) for n in spec.ladder), *((rung.images, rung) for rung in rungs)]


@dataclass(frozen=True)
class _Planned:
    """A cell without its key, and its configs, which are held against those who will run them."""

    cell: Cell
    learner: LoadedConfig | None
    detector: LoadedConfig
    rung: Rung | None


def check_cells(
    spec: StudySpec, data: StudyData, engine: str, arch: str
) -> Iterator[tuple[LoadedConfig | None, LoadedConfig]]:
    """The configs, of pretraining and of fine-tuning, of each kind of cell of an architecture: for one seed, and of the
    ladder the top.

    They are held against those who will run them, as :func:`plan_cells` does it; the corpus need not be there yet.

    Raises:
        UserError: see :func:`plan_cells`.
    """
    top = replace(spec, ladder=spec.ladder[-1:])
    for images, rung in _ladder(top, data, arch):
        planned = _planned(spec, data, engine, arch, images, spec.seeds[0], rung)
        yield planned.learner, planned.detector


def _planned(
    spec: StudySpec, data: StudyData, engine: str, arch: str, images: int, seed: int, rung: Rung | None
) -> _Planned:
    cell = Cell(
        key="",
        arch=arch,
        images=images,
        seed=seed,
        engine=engine,
        threads=spec.threads,
        pretrain=_of_arch(spec.pretrain, spec, arch) if images and spec.pretrain is not None else None,
        finetune=_of_arch(spec.finetune, spec, arch),
        data=CellData("" if data.corpus is None else str(data.corpus.absolute()), data.train, data.val),
        noise=Noise(**spec.noise) if images and spec.pretrain is not None else None,
        weights=str(rung.weights) if rung else "",
        weights_sha256=rung.card.tensors_sha256 if rung else "",
    )
    detector, learner = cell.finetune_config(), cell.pretrain_config()
    where = f"study spec {spec.source}: architecture {arch}"
    _check_stages(where, engine, learner, data.corpus_images, rung, detector)
    return _Planned(cell, learner, detector, rung)


def _keyed(spec: StudySpec, data: StudyData, planned: _Planned) -> Cell:
    """The cell with its keys."""
    cell, learner, detector, rung = planned.cell, planned.learner, planned.detector, planned.rung
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
    depth = _depth(rung, learner, detector)
    cost = depth * (2.0 if learner else 1.0) + cell.images * 1e-9
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


def _of_arch(stage: StageSection, spec: StudySpec, arch: str) -> StageSection:
    """A stage with an architecture's keys; a config of the user's by its full path, since cells also run elsewhere."""
    config = str(Path(stage.config).absolute()) if Path(stage.config).is_file() else stage.config
    return StageSection(config, stage.overrides + spec.architectures[arch])


def _check_stages(
    where: str,
    engine: str,
    learner: LoadedConfig | None,
    corpus_images: int,
    rung: Rung | None,
    detector: LoadedConfig,
) -> None:
    """Hold a cell's configs against the code and the corpus they will meet, and the backbone against the detector.

    Raises:
        UserError: what a stage would refuse once its turn came; names the architecture and the key.
    """
    try:
        card = rung.card if rung is not None else None
        if learner is not None:
            card = check_pretraining(learner.cfg)
            training_images(learner.cfg, corpus_images)
        elif rung is None and detector.cfg.MODEL.WEIGHTS:
            raise UserError(
                f"a cell from scratch would start from MODEL.WEIGHTS {detector.cfg.MODEL.WEIGHTS} ({detector.source})",
                hint="leave scratch out (scratch: false), or empty that key in finetune.overrides",
            )
        get_engine(engine).check_config(detector.cfg if card is None else apply_card(detector, card))
    except UserError as e:
        raise UserError(f"{where}: {e}") from e


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
