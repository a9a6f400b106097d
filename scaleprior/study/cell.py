"""One cell of a study: what it is, the configs of its stages, and the file that tells its process so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scaleprior.config import LoadedConfig, load_config
from scaleprior.config.load import override_config
from scaleprior.detect.engines import get_engine
from scaleprior.errors import UserError
from scaleprior.files import write_json
from scaleprior.parsing import read_json
from scaleprior.study.sections import StageSection

__all__ = ["CELL_FILE", "Cell", "CellData", "Noise"]

CELL_FILE = "cell.json"
_STORE_KEY = "SCALEPRIOR.IMAGE_STORE_MB"
_STORE_MB = 2048  # unless the spec says another; cells read the same images over and over, which a single run does not


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
        arm: which of the study's ways of fine-tuning; "" in a study without arms.
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
    arm: str = ""
    cost: float = field(compare=False, default=0.0)

    @property
    def folder_name(self) -> str:
        """A name that people can read, made unique by the key."""
        arm = f"-{self.arm}" if self.arm else ""
        return f"{self.arch}-{self.images or 'scratch'}{arm}-seed{self.seed}-{self.key[:8]}"

    @property
    def title(self) -> str:
        """Architecture, and the arm where there are arms: what a law is of."""
        return f"{self.arch} ({self.arm})" if self.arm else self.arch

    @property
    def backbone_name(self) -> str:
        """As :attr:`folder_name`, of its pretraining alone, which the arms share."""
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
        """The config of fine-tuning and evaluation; decoded images are shared with the other cells of the machine.

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
        stage = self.finetune
        loaded = load_config(stage.config, stage.overrides, pieces=stage.pieces, defaults=defaults)
        loaded = override_config(loaded, own.items(), origin="the study")
        if _STORE_KEY in loaded.explicit or "IMAGE_STORE_MB" not in loaded.cfg.get("SCALEPRIOR", {}):
            return loaded
        # a default of studies, which is nobody's word
        with_store = override_config(loaded, [(_STORE_KEY, _STORE_MB)], origin="the study")
        return replace(with_store, explicit=loaded.explicit)

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
    return None if raw is None else StageSection(raw["config"], tuple(raw["overrides"]), tuple(raw.get("pieces", ())))
