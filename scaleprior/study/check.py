"""Everything that would stop a study, found before its first cell begins."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from scaleprior.backbones.weights import load_canonical
from scaleprior.checking import CheckReport
from scaleprior.corpus import Corpus
from scaleprior.corpus.check import check_corpus
from scaleprior.detect.check import detection_needs
from scaleprior.detect.data.check import SetFiles, check_sets
from scaleprior.detect.data.coco import mask_use
from scaleprior.detect.engines import Engine, get_engine
from scaleprior.detect.faster_rcnn.engine import TorchvisionEngine
from scaleprior.detect.plan import check_class_count
from scaleprior.errors import UserError
from scaleprior.pretrain.check import pretraining_needs
from scaleprior.pretrain.data.batches import held_out_rows
from scaleprior.progress import ProgressFn
from scaleprior.study.arms import check_arms
from scaleprior.study.cells import CellConfigs, check_cells
from scaleprior.study.prepare import StudyData, check_source, detection_files, finetuning_config
from scaleprior.study.rungs import AbsentRung, Rung, find_rungs, survey_rungs
from scaleprior.study.spec import StudySpec
from scaleprior.study.status import study_status
from scaleprior.training.device import resolve_device
from scaleprior.training.resources import Needs, check_disk, check_memory
from scaleprior.wording import parameter

__all__ = ["check_study"]

_CLASSES = "MODEL.ROI_HEADS.NUM_CLASSES"

_Configs = Mapping[str, Sequence[CellConfigs]]
"""Of each architecture the configs of its kinds of cells."""


def check_study(
    spec: StudySpec,
    out: Path,
    *,
    engine: str | None = None,
    open_source: bool = True,
    progress: ProgressFn | None = None,
) -> CheckReport:
    """Look at all that the cells of ``spec`` would meet, once for all of them.

    Looked at are the configs of both stages of every architecture, the detection sets with the headers of all images,
    the corpora with their files, backbones that exist, the space on the disk and the memory. Nothing is made that the
    study would make (worlds, an index of a source), and images of a source are not decoded; names of the zoo are
    fetched.

    Args:
        out: the study's folder.
        engine: overrides the spec's.
        open_source: of a corpus that is to be indexed, read the labels and refuse what is doubtful; False where it is
            indexed next, which would list it twice.
        progress: called with (files done, files in all, {}).
    """
    report = CheckReport()
    begun = None
    with contextlib.suppress(UserError):  # not begun yet
        begun = study_status(out)
    chosen, name = None, engine or spec.engine
    with report.collecting("engine"):
        chosen = get_engine(begun.engine if begun is not None and begun.engine and name == "auto" else name)
    if chosen is None:
        return report
    train, val = detection_files(spec, out)
    classes = None
    if spec.detection.world is None:
        sets = [SetFiles("train", *train), SetFiles("val", *val)]
        with report.collecting("config"):
            cfg = finetuning_config(spec, chosen.name)
            drop_bad = cfg.SCALEPRIOR.DROP_BAD
            leaves_out = drop_bad == "none" or isinstance(chosen, TorchvisionEngine)  # see ``check_detection``
            uses = [mask_use(cfg, evaluated=each.role == "val") if leaves_out else None for each in sets]
            sets = [each._replace(drop_bad=drop_bad, masks=masks) for each, masks in zip(sets, uses)]
        found, classes = check_sets(
            sets,
            same_ids=isinstance(chosen, TorchvisionEngine),
            detectron2=chosen.name == "detectron2",
            progress=progress,
        )
        report.take(found)
    corpus = _corpus(report, spec, out, open_source=open_source)
    rungs = _rungs(report, spec)
    place = None if spec.corpus is None else (corpus.path if corpus is not None else out / "corpus")
    data = StudyData(place, sys.maxsize if corpus is None else len(corpus), "", train, val, "", {}, rungs)
    configs = _configs(report, spec, data, chosen, classes)
    if corpus is not None:
        _check_corpora(report, spec, corpus, configs, progress)
    if not report.of("config", "corpus", "weights"):
        finished = begun.finished() if begun is not None else []
        done = Counter((cell.arch, cell.arm) for cell, _ in finished)
        labels = 1 if corpus is None else len(corpus.label_space)
        _check_room(report, spec, out, chosen, configs, done, labels)
    return report


def _corpus(report: CheckReport, spec: StudySpec, out: Path, *, open_source: bool) -> Corpus | None:
    """The index that is there; None in a study of backbones that exist, and where the study will make it."""
    section = spec.corpus
    if section is None:
        return None
    made = out / "corpus"
    with report.collecting("corpus"):
        if section.index is not None or (made / "corpus.json").is_file():
            corpus = Corpus.open(section.index or made)
            if spec.ladder and spec.ladder[-1] > len(corpus):
                raise UserError(
                    f"ladder of {spec.source} asks for {spec.ladder[-1]} images, the corpus has {len(corpus)}",
                    hint="lower the ladder or add images",
                )
            return corpus
        if section.source is not None and not section.source.exists():
            raise UserError(f"corpus.source of {spec.source} is not there: {section.source}", hint="check the path")
        if section.source is not None and open_source:
            check_source(section)
        report.facts["corpus"] = "the study makes it"
    return None


def _rungs(report: CheckReport, spec: StudySpec) -> Mapping[str, tuple[Rung, ...]]:
    """Backbones that exist; their tensors are held against their cards."""
    rungs: Mapping[str, tuple[Rung, ...]] = {}
    missing: list[tuple[str, AbsentRung]] = []
    with report.collecting("weights"):
        _, absent = survey_rungs(spec)
        missing = [(arch, rung) for arch, found in absent.items() for rung in found if not rung.public]
    for arch, rung in missing:
        with report.collecting("weights"):
            raise UserError(
                f"backbones.{arch} of {spec.source}: {rung.weights} is not here: {rung.why}",
                hint=f"or leave out what is not here with {parameter('skip_missing', True)}",
            )
    if not report.of("weights"):
        with report.collecting("weights"):
            rungs = find_rungs(spec)
    for rung in (rung for ladder in rungs.values() for rung in ladder):
        with report.collecting("weights"):
            load_canonical(rung.weights)
    return rungs


def _configs(
    report: CheckReport, spec: StudySpec, data: StudyData, engine: Engine, classes: int | None
) -> dict[str, list[CellConfigs]]:
    configs: dict[str, list[CellConfigs]] = {}
    sound = False
    with report.collecting("config"):
        check_arms(spec)
        sound = True
    for arch in spec.architectures if sound else ():
        with report.collecting("config"):
            configs[arch] = list(check_cells(spec, data, engine.name, arch))
            if classes is not None:
                for kind in configs[arch]:
                    check_class_count(kind.detector, _CLASSES, classes, data.train[1])
    return configs


def _check_corpora(
    report: CheckReport, spec: StudySpec, corpus: Corpus, configs: _Configs, progress: ProgressFn | None
) -> None:
    learners = [kind.learner.cfg for kinds in configs.values() for kind in kinds if kind.learner is not None]
    # where no config holds together, files that are gone are still worth a word
    tolerated = min((cfg.PRETRAIN.LOADER.MAX_UNREADABLE for cfg in learners), default=0.0)
    report.take(check_corpus(corpus.fraction(images=spec.ladder[-1]), tolerated=tolerated, progress=progress))
    held_out = {(node.CORPUS, node.IMAGES): cfg for cfg in learners for node in [cfg.PRETRAIN.HELD_OUT]}
    for (name, _), cfg in held_out.items():
        with report.collecting("corpus"):
            found = held_out_rows(cfg, corpus)
            if found is not None:
                rows, start = found
                where = f"held out {name}".rstrip()
                report.take(check_corpus(rows, start=start, name=where, progress=progress))


def _check_room(
    report: CheckReport,
    spec: StudySpec,
    out: Path,
    engine: Engine,
    configs: _Configs,
    done: Counter[tuple[str, str]],
    labels: int,
) -> None:
    """Disk for what the missing cells leave and for the checkpoints of the largest; memory for the largest.

    Args:
        done: cells of each architecture and arm. labels: of the corpus, at least.
    """
    left, stages = 0, list[tuple[str, Needs]]()
    for arch, kinds in configs.items():
        rungs = max(len(spec.ladder), 1)  # of the kinds, only the top of the ladder is among the configs
        pretrained = False  # once for all arms, whose backbones those are
        for kind in kinds:
            cells = len(spec.seeds) * (rungs if kind.learner is not None else 1)
            missing = max(cells - done[arch, kind.arm], 0)
            done[arch, kind.arm] -= cells - missing
            if kind.learner is not None and not pretrained:
                pretrained = True
                needs = pretraining_needs(kind.learner.cfg, labels)
                left += missing * needs.left
                stages.append((kind.learner.cfg.MODEL.DEVICE, needs))
            found = detection_needs(kind.detector.cfg, engine)
            if found is not None:
                left += missing * found.left
                stages.append((kind.detector.cfg.MODEL.DEVICE, found))
    if not stages:
        return
    check_disk(report, out, least=left, most=left + max(need.peak for _, need in stages))
    device, largest = max(stages, key=lambda stage: stage[1].memory)
    with report.collecting("device"):
        if resolve_device(device).type == "cpu":  # asking a GPU would take some of its memory as long as the study runs
            check_memory(report, device, largest.memory, of=largest.of)
