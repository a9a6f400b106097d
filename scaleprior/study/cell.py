"""One cell of a study: what it is, the configs of its stages, and the file that tells its process so."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from scaleprior.config import LoadedConfig, load_config
from scaleprior.config.load import override_config
from scaleprior.detect.engines import get_engine
from scaleprior.files import write_json
from scaleprior.parsing import read_json
from scaleprior.places import check_name
from scaleprior.study.fields import Fields
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
    def from_dict(cls, raw: Any, *, where: str = "cell", hint: str = "run the study again, it is rewritten") -> Cell:
        """Read what :meth:`to_dict` wrote.

        Args:
            where: the file, and the place in it, for messages.
            hint: what to do about a damaged one.

        Raises:
            UserError: something is missing, unknown or of another kind; what names its folders leads out of them.
        """
        own = Fields(raw, where=where, hint=hint)
        own.only([each.name for each in fields(cls)])
        cell = cls(
            key=own.text("key"),
            arch=own.text("arch"),
            images=own.whole("images"),
            seed=own.whole("seed"),
            engine=own.text("engine"),
            threads=own.whole("threads", least=1),
            pretrain=None if (pretrain := own.optional("pretrain")) is None else _stage(pretrain),
            finetune=_stage(own.inner("finetune")),
            data=_data(own.inner("data")),
            noise=None if (noise := own.optional("noise")) is None else _noise(noise),
            weights=own.text("weights", ""),
            weights_sha256=own.text("weights_sha256", ""),
            pretraining=own.text("pretraining", ""),
            arm=own.text("arm", ""),
            cost=own.number("cost", 0.0),
        )
        for name in (cell.folder_name, cell.backbone_name):
            check_name(name, what=f"{where}: the folder")
        return cell

    def save(self, folder: Path) -> None:
        """Write ``cell.json``."""
        write_json(folder / CELL_FILE, self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> Cell:
        """Read ``cell.json``.

        Raises:
            UserError: it is not there, damaged, or of another version.
        """
        path = folder / CELL_FILE
        return cls.from_dict(read_json(path, what="cell description"), where=str(path))


def _stage(own: Fields) -> StageSection:
    own.only(("config", "overrides", "pieces"))
    return StageSection(own.text("config"), own.texts("overrides"), own.texts("pieces", ()))


def _data(own: Fields) -> CellData:
    own.only(("corpus", "train", "val"))
    train, val = (own.texts(name, count=3) for name in ("train", "val"))
    return CellData(own.text("corpus"), (train[0], train[1], train[2]), (val[0], val[1], val[2]))


def _noise(own: Fields) -> Noise:
    own.only(("rate", "kind", "drop"))
    return Noise(own.number("rate"), own.text("kind"), own.number("drop"))
