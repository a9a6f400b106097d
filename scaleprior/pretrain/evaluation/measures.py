"""What a run measures beside its loss, while it trains and at its end: on held-out images, and by probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scaleprior.corpus import Corpus, Fraction
from scaleprior.corpus.integrity import check_rows
from scaleprior.errors import FailureError, UserError
from scaleprior.pretrain.data.augment import CropAugmentation
from scaleprior.pretrain.data.batches import ImageSet, held_out_set
from scaleprior.pretrain.evaluation.crops import CentralCrops, CropShare, Room
from scaleprior.pretrain.evaluation.features import pooled_features
from scaleprior.pretrain.evaluation.held_out import evaluate
from scaleprior.pretrain.evaluation.probes import ProbeSet, probe
from scaleprior.pretrain.metrics import Measured, ProbeMetrics

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.pretrain.network.pretrainer import Pretrainer
    from scaleprior.training.processes import ProcessGroup
    from scaleprior.training.signals import StopRequest

__all__ = ["Measures", "judging_from", "probe_rows"]

_BATCH = 64  # images: the same for any number of processes, and few enough that all of them have some
_LEAST = 10


class Measures:
    """The images that a run is measured on; every process makes one, and calls it as often as the others.

    Args:
        held_out: None for none.
        probe: labelled images, of which the last fifth judges; None for none. kinds: of probes.
    """

    def __init__(
        self,
        processes: ProcessGroup,
        *,
        held_out: CropShare | None = None,
        probe: CropShare | None = None,
        kinds: Sequence[str] = (),
    ) -> None:
        self._processes = processes
        self._held_out = held_out
        self._probe = probe
        self._kinds = tuple(kinds)

    @classmethod
    def from_config(cls, cfg: CfgNode, corpus: Corpus, processes: ProcessGroup, *, probes: bool = True) -> Measures:
        """Those that ``cfg.PRETRAIN`` names.

        Args:
            probes: False leaves them out.

        Raises:
            UserError: see ``batches.held_out_set`` and :func:`probe_rows`.
        """
        room = Room(cfg.PRETRAIN.LOADER.CACHE_MB * 2**20)
        images = held_out_set(cfg, corpus)
        held_out = None if images is None else _share(cfg, images, processes, room)
        rows = probe_rows(cfg) if probes else None
        probe = None if rows is None else _share(cfg, _labelled(cfg, rows), processes, room, name="probe")
        return cls(processes, held_out=held_out, probe=probe, kinds=cfg.PRETRAIN.PROBE.KINDS)

    def __call__(self, model: Pretrainer, *, stop: StopRequest | None = None) -> Measured:
        """Figures of ``model``, which comes back as it was; the same on every process.

        Args:
            stop: of this process; looked at between batches of images.

        Raises:
            FailureError: none of the images can be read. Interrupted: a process was asked to stop; in all of them.
        """
        held_out = None if self._held_out is None else evaluate(model, self._held_out, self._processes, stop=stop)
        probed = None if self._probe is None else self._probed(model, self._probe, stop)
        return Measured(held_out, probed)

    def _probed(self, model: Pretrainer, share: CropShare, stop: StopRequest | None) -> ProbeMetrics:
        found, images = pooled_features(model, share, self._processes, stop=stop), share.images
        rows = found.rows.numpy()
        labels, absent = images.labels_of(rows), images.absent_of(rows)
        whole = ProbeSet.of_csr(
            found.values, *labels, absent, classes=len(images.label_space), single=_is_single(images)
        )  # fmt: skip
        first = int((found.rows < judging_from(len(images))).sum())
        if first < 2 or first == len(rows):
            said = f"{first} of the probe images to learn from and {len(rows) - first} to judge on can be read"
            raise FailureError(said, hint="check PRETRAIN.PROBE.CORPUS")
        figures = probe(whole.part(0, first), whole.part(first, len(rows)), self._kinds, self._processes)
        return replace(figures, unreadable=found.unreadable)


def probe_rows(cfg: CfgNode) -> Fraction | None:
    """The images that ``cfg.PRETRAIN.PROBE`` asks for, the first in hash order; None for none.

    Raises:
        UserError: too few of them, or no kind of probe.
    """
    node = cfg.PRETRAIN.PROBE
    if not node.CORPUS:
        return None
    if not node.KINDS:
        raise UserError(
            "PRETRAIN.PROBE.CORPUS is set and PRETRAIN.PROBE.KINDS is empty", hint="name linear, knn or both"
        )
    corpus = Corpus.open(node.CORPUS)
    images = min(node.IMAGES or len(corpus), len(corpus))
    if images < _LEAST:
        raise UserError(
            f"PRETRAIN.PROBE.IMAGES is {node.IMAGES} and PRETRAIN.PROBE.CORPUS has {len(corpus)}: {images} to probe "
            "with",
            hint=f"give at least {_LEAST}: a fifth of them judges",
        )
    return corpus.fraction(images=images)


def judging_from(images: int) -> int:
    """The first row of a set of ``images`` that judges a probe; those before it are learned from."""
    return images - images // 5


def _labelled(cfg: CfgNode, fraction: Fraction) -> ImageSet:
    check_rows(fraction.corpus)
    absent = fraction.absent() if fraction.has_absent else None
    images = ImageSet(fraction, *fraction.labels(), absent=absent, strict=cfg.SCALEPRIOR.STRICT_IMAGES)
    images.expand = cfg.PRETRAIN.EXPAND_LABELS and not _is_single(images)
    return images


def _is_single(images: ImageSet) -> bool:
    """Each image has one label, as listed, and is known to have no other."""
    return images.absent is None and bool((np.diff(images.offsets) == 1).all())


def _share(cfg: CfgNode, images: ImageSet, processes: ProcessGroup, room: Room, *, name: str = "") -> CropShare:
    crops = CentralCrops(images, CropAugmentation.from_config(cfg), order=cfg.INPUT.FORMAT, batch_size=_BATCH)
    words = {"name": name, "key": f"PRETRAIN.{name.upper()}"} if name else {}
    return CropShare(
        crops,
        rank=processes.rank,
        size=processes.size,
        workers=cfg.PRETRAIN.LOADER.NUM_WORKERS,
        room=room,
        **words,
    )
