"""A whole pretraining run: corpus in, backbone with its card out.

The output folder holds ``config.yaml`` with ``scaleprior.yaml``, ``run.json`` (identity), the last checkpoints while
running, and what the recorder writes (``metrics.jsonl``); at the end ``backbone.safetensors``, ``head.safetensors``
and, last, ``result.json``, which marks it finished.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.backbones.assumed import warn_of_assumed
from scaleprior.config.batch import log_settled, settled
from scaleprior.config.saved import write_config
from scaleprior.corpus import Corpus
from scaleprior.locks import alone_in
from scaleprior.pretrain.costs.work import pretraining_work
from scaleprior.pretrain.data.batches import training_set
from scaleprior.pretrain.evaluation.measures import Measures
from scaleprior.pretrain.figures.json_lines import JsonLines
from scaleprior.pretrain.figures.recorder import Recorder, closed_after
from scaleprior.pretrain.loop.building import build_trainer, training_device
from scaleprior.pretrain.loop.calculating import calculating
from scaleprior.pretrain.loop.memory import memory_errors_elsewhere
from scaleprior.pretrain.loop.saved import saved_state
from scaleprior.pretrain.plan import (
    check_mode,
    check_pretraining,
    parent_card,
    run_identity,
    run_parts,
)
from scaleprior.pretrain.result import SCHEMA, PretrainResult, finished_result, result_in, write_result
from scaleprior.provenance import created_by
from scaleprior.training.checkpoints import Checkpoints, SavedState
from scaleprior.training.crews import with_crew
from scaleprior.training.metrics_file import write_errors
from scaleprior.training.processes import ProcessGroup, join_processes, place_in_group
from scaleprior.training.run_folder import RunFolder
from scaleprior.training.seeds import generators_kept
from scaleprior.training.signals import catch_sigterm

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.config.load import LoadedConfig
    from scaleprior.progress import ProgressFn

__all__ = ["run_pretraining"]

logger = logging.getLogger(__name__)


def run_pretraining(
    loaded: LoadedConfig,
    out: str | Path,
    *,
    resume: bool = False,
    progress: ProgressFn | None = None,
    recorder: Recorder | None = None,
) -> PretrainResult:
    """Pretrain the trunk of ``loaded.cfg`` on a fraction of a corpus.

    Under torchrun every process calls this with the same arguments; process 0 writes.

    Args:
        out: folder of the run.
        resume: go on with a run of the same config in ``out``, or return its result if it is finished; with nothing
            there, start. Without it, a folder that holds a run is refused.
        progress: called once a step with (steps done, steps in all, {"loss": ..., "images/s": ...}).
        recorder: where the numbers of every step go instead of ``metrics.jsonl``.

    Raises:
        UserError: an illegal value (names the key), a fraction that does not fit, another run's folder.
        Interrupted: SIGTERM; the state is saved. FailureError: a loss that is not finite, too many unreadable images,
            a full disk.
    """
    out, count = Path(out), place_in_group()[1]
    spec, parent = check_pretraining(loaded.cfg, processes=count).arch, parent_card(loaded.cfg)
    cfg = settled(loaded.cfg, count)
    corpus = Corpus.open(cfg.PRETRAIN.CORPUS)
    images = training_set(cfg, corpus)
    pretraining_work(cfg, len(corpus))  # refused before anything is written
    with (
        calculating(cfg),
        memory_errors_elsewhere(),
        join_processes(training_device(cfg), timeout=_timeout(cfg)) as processes,
        generators_kept(),  # looks at those of a GPU, so not before it is settled how that calculates
    ):
        check_mode(cfg, processes.device.type, joined=processes.joined)
        measures = Measures.from_config(cfg, corpus, processes)
        claim = _claim(cfg, corpus, out, processes, resume=resume)
        processes.wait()  # nobody writes before everybody has looked
        if claim.finished is not None:
            if processes.main:
                claim.checkpoints.remove()  # left by a run killed between its last two lines
            return claim.finished
        recorder = recorder or JsonLines.from_config(cfg, out)
        with alone_in(out) if processes.main else contextlib.nullcontext(), closed_after(recorder, out):
            with write_errors(out):
                recorder.prepare(processes)
            if processes.main:
                log_settled(loaded.cfg, cfg, count)
                claim.folder.write()
                write_config(cfg, out, complete=["PRETRAIN"])  # over what Detectron2's set-up may have put there
                if parent is not None:
                    warn_of_assumed(parent, logger)
            trainer = build_trainer(cfg, spec, images, processes, claim.folder, claim.checkpoints, parent)
            trainer.measures, trainer.measure_period = measures, cfg.PRETRAIN.EVAL.PERIOD
            if claim.saved is not None:
                trainer.resume(claim.saved)
                claim.saved = None  # as large as the model and the optimiser together
            with write_errors(out):
                recorder.open(processes, trainer.counters, trainer.schedule.total)
            trainer.train(recorder, progress)
            with catch_sigterm() as stop:
                measured = trainer.measured(stop)
            with trainer.averaged():
                head, result = trainer.model.head.whole(), None  # every process gives its share
                if processes.main and head is not None:
                    result = write_result(cfg, trainer, head, measured, parent, recorder)
            processes.wait()
        return result or result_in(out)


@dataclass
class _Claim:
    """A folder that may be used for a run, and what is there of it."""

    folder: RunFolder
    checkpoints: Checkpoints
    saved: SavedState | None
    finished: PretrainResult | None


def _claim(cfg: CfgNode, corpus: Corpus, out: Path, processes: ProcessGroup, *, resume: bool) -> _Claim:
    """Look at ``out``; nothing is written.

    Raises:
        UserError: it holds another run, or one that was not to be gone on with.
    """
    identity = {"schema": SCHEMA, **run_identity(cfg, corpus, processes=processes.size), "created_by": created_by()}
    made_of = run_parts(cfg, corpus, identity)
    folder = RunFolder(out, identity, parts="config, corpus or number of processes", made_of=made_of)
    finished = finished_result(folder, resume=resume)
    checkpoints, saved = Checkpoints(out, keep=cfg.PRETRAIN.CHECKPOINTS), None
    if resume and finished is None:
        saved = saved_state(folder, checkpoints, processes)
        if saved is not None and processes.main:
            folder.warn_of_other_version()
    if cfg.PRETRAIN.PROCESSES == "any":
        done = 0 if saved is None else saved.state["counters"]["step"]
        folder = with_crew(folder, steps=done, processes=processes.size)
    return _Claim(folder, checkpoints, saved, finished)


def _timeout(cfg: CfgNode) -> timedelta:
    return timedelta(minutes=cfg.PRETRAIN.PROCESS_TIMEOUT)
