"""What a run measures beside its loss: on held-out images, while it trains and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleprior.pretrain.data.augment import CropAugmentation
from scaleprior.pretrain.data.batches import ImageSet, held_out_set
from scaleprior.pretrain.evaluation.crops import CentralCrops, CropShare, Room
from scaleprior.pretrain.evaluation.held_out import evaluate
from scaleprior.pretrain.metrics import Measured

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.corpus import Corpus
    from scaleprior.pretrain.network.pretrainer import Pretrainer
    from scaleprior.training.processes import ProcessGroup

__all__ = ["Measures"]


class Measures:
    """The images that a run is measured on; every process makes one, and calls it as often as the others.

    Args:
        held_out: None for none.
    """

    def __init__(self, processes: ProcessGroup, *, held_out: CropShare | None = None) -> None:
        self._processes = processes
        self._held_out = held_out

    @classmethod
    def from_config(cls, cfg: CfgNode, corpus: Corpus, processes: ProcessGroup) -> Measures:
        """Those that ``cfg.PRETRAIN`` names.

        Raises:
            UserError: see ``batches.held_out_set``.
        """
        room = Room(cfg.PRETRAIN.LOADER.CACHE_MB * 2**20)
        images = held_out_set(cfg, corpus)
        held_out = None if images is None else _share(cfg, images, processes, room)
        return cls(processes, held_out=held_out)

    def __call__(self, model: Pretrainer) -> Measured:
        """Figures of ``model``, which comes back as it was; the same on every process.

        Raises:
            FailureError: none of the images can be read.
        """
        return Measured(held_out=None if self._held_out is None else evaluate(model, self._held_out, self._processes))


def _share(cfg: CfgNode, images: ImageSet, processes: ProcessGroup, room: Room) -> CropShare:
    crops = CentralCrops(
        images,
        CropAugmentation.from_config(cfg),
        order=cfg.INPUT.FORMAT,
        batch_size=min(cfg.PRETRAIN.BATCH_SIZE, 256),
    )
    workers = cfg.PRETRAIN.LOADER.NUM_WORKERS
    return CropShare(crops, rank=processes.rank, size=processes.size, workers=workers, room=room)
