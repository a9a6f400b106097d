"""``scaleprior.pretrain(...)``: a pretraining run from a Python program or a notebook."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.config.sources import ConfigSource, open_config
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn, watched

if TYPE_CHECKING:
    from scaleprior.config import LoadedConfig
    from scaleprior.corpus import Corpus, Fraction
    from scaleprior.pretrain.figures.recorder import Recorder
    from scaleprior.pretrain.result import PretrainResult

__all__ = ["check_first", "corpus_keys", "pretrain"]

logger = logging.getLogger(__name__)


def pretrain(
    config: ConfigSource,
    out: str | Path | None = None,
    *,
    corpus: str | Path | Corpus | Fraction | None = None,
    images: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    check: bool = True,
    progress: ProgressFn | bool = False,
    recorder: Recorder | None = None,
    curves: bool = True,
) -> PretrainResult:
    """Pretrain a backbone on a fraction of a corpus.

    ::

        sp.pretrain("Pretrain/R_50_jft.yaml", out="r50", corpus="my_index", images=100_000, overrides={"SEED": 1})

    Under torchrun every process calls this with the same arguments; process 0 writes.

    Args:
        config: a YAML file, by path or by its name in ``configs/``; a mapping of keys; or a config that is loaded.
        out: folder of the run; by default the config's ``OUTPUT_DIR``.
        corpus: an index folder, or one opened; a fraction also says how many images. Sets ``PRETRAIN.CORPUS``.
        images: pretraining images, the first in hash order; sets ``PRETRAIN.FRACTION.IMAGES``.
        overrides: other keys, ``{"SOLVER.MAX_ITER": 10}`` or nested.
        resume: go on with a run of the same config in ``out``, or return its result if it is finished; with nothing
            there, start. Without it, a folder that holds a run is refused.
        check: look at the corpora's files, disk and memory before anything is trained; see ``scaleprior.check``.
        progress: True for a bar on the terminal; or a function that is called once a step with (steps done, steps in
            all, {"loss": ..., "images/s": ...}).
        recorder: where the numbers of every step go instead of ``metrics.jsonl``.
        curves: draw loss, rate and throughput as ``curves.png`` when the run is done.

    Raises:
        UserError: an illegal value (names the key), a fraction that does not fit, another run's folder.
        Interrupted: SIGTERM; the state is saved. FailureError: a loss that is not finite, too many unreadable images.
    """
    from scaleprior.pretrain.loop.calculating import calculating
    from scaleprior.pretrain.run import run_pretraining
    from scaleprior.training.processes import place_in_group

    loaded = open_config(open_config(config, overrides), corpus_keys(corpus, images))
    folder = Path(out or loaded.cfg.OUTPUT_DIR)
    with calculating(loaded.cfg):  # before the check, which asks a GPU for its memory
        if check:
            check_first(loaded, folder, progress)
        with watched(progress, "pretraining") as report:
            result = run_pretraining(loaded, folder, resume=resume, progress=report, recorder=recorder)
    if curves and place_in_group()[0] == 0:
        _draw(folder, result.backbone)
    return result


def _draw(folder: Path, backbone: Path) -> None:
    """The picture of a finished run, if it has none; whatever becomes of it, the run is done."""
    from scaleprior.backbones.weights import read_card
    from scaleprior.pretrain.figures.curves import CURVES, save_curves

    if (folder / CURVES).exists():
        return
    try:
        save_curves(folder, title=read_card(backbone).name)
    except ImportError:
        logger.info("no %s: it needs the matplotlib package", CURVES)
    except Exception as e:
        logger.warning("%s was not drawn: %s: %s", folder / CURVES, type(e).__name__, e)


def check_first(loaded: LoadedConfig, out: Path, progress: ProgressFn | bool) -> None:
    """Refuse what would stop the run; the first process looks for all."""
    from scaleprior.pretrain.check import check_pretraining_run
    from scaleprior.training.processes import place_in_group

    rank, size = place_in_group()
    if rank == 0:
        # a function of the caller's counts steps
        with watched(progress is True, "checking", unit="files") as report:
            check_pretraining_run(loaded, out, processes=size, progress=report).refuse()


def corpus_keys(corpus: str | Path | Corpus | Fraction | None, images: int | None) -> dict[str, Any]:
    """What the arguments ``corpus`` and ``images`` of :func:`pretrain` mean, by config keys."""
    keys: dict[str, Any] = {}
    if isinstance(corpus, (str, Path)):
        keys["PRETRAIN.CORPUS"] = str(corpus)
    elif corpus is not None:
        from scaleprior.corpus import Corpus, Fraction

        whole = corpus.corpus if isinstance(corpus, Fraction) else corpus
        if isinstance(corpus, Fraction):
            if images not in (None, corpus.images):
                raise UserError(f"images is {images}, corpus is a fraction of {corpus.images}", hint="give one of them")
            images = corpus.images
        if whole.root != Corpus.open(whole.path).root:
            raise UserError(
                f"the images of {whole.path} were moved to {whole.root}, which a run would not remember",
                hint="build the index again where they are",
            )
        keys["PRETRAIN.CORPUS"] = str(whole.path)
    if images is not None:
        keys["PRETRAIN.FRACTION.IMAGES"] = images
    return keys
