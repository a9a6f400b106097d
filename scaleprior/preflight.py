"""``scaleprior.check(...)``: everything that would stop a run, said at once, before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from scaleprior.checking import CheckReport
from scaleprior.config.sources import ConfigSource, open_config
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn, watched
from scaleprior.wording import parameter

if TYPE_CHECKING:
    from scaleprior.detect.data.problems import DropBad
    from scaleprior.study.study import Study

__all__ = ["check"]

Data = str | Path | tuple[str | Path, str | Path]
"""A corpus' index, or (COCO JSON, its images: a folder, a tar, or a glob of tars)."""


def check(
    config: ConfigSource = None,
    out: str | Path | None = None,
    *,
    data: Data | Sequence[Data] | None = None,
    study: str | Path | Mapping[str, Any] | Study | None = None,
    weights: str | Path | None = None,
    engine: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    drop_bad: DropBad | None = None,
    progress: ProgressFn | bool = False,
) -> CheckReport:
    """Look at data, at the run of a config, or at a whole study: nothing is trained, and what is found is not raised.

    ::

        report = sp.check(data=[("train.json", "images"), ("val.json", "images")])
        report.ok, report.findings

    Args:
        config: of a fine-tuning or, where it sets ``PRETRAIN.CORPUS``, of a pretraining run; see ``scaleprior.detect``.
        out: folder that the run would write to; by default the config's ``OUTPUT_DIR``, or the study's name.
        data: in place of a config: an index, a detection set, or several: the first set is the one to train on, and
            the others, to evaluate on, are held against it.
        study: in place of a config: a spec, by path, by its name in ``configs/``, as a mapping, or made already.
        weights: backbone to start from; by default ``MODEL.WEIGHTS``.
        engine: ``auto``, ``torchvision``, ``detectron2``, or one that another package announces.
        overrides: keys of the config, or of the study's spec.
        drop_bad: what the run will leave out of detection sets; see ``scaleprior.detect``. A study says so in its spec.
        progress: True for a bar on the terminal; or a function that is called with (files done, files in all, {}).

    Raises:
        UserError: not exactly one of the three was given, or what was given cannot be opened at all.
    """
    if sum(given is not None for given in (config, data, study)) != 1:
        ways = f"{parameter('data')}, {parameter('config', option='config_file')} or {parameter('study')}"
        raise UserError("a check looks at one thing", hint=f"give {ways}")
    if study is not None and drop_bad is not None:
        key = "SCALEPRIOR.DROP_BAD among the overrides of its finetune section"
        raise UserError(f"{parameter('drop_bad')} is no matter of a study's check", hint=f"set {key}")
    with watched(progress, "checking", unit="files") as report:
        if data is not None:
            return _check_data(data, drop_bad or "none", report)
        if study is not None:
            return _check_study(study, out, engine, overrides, report)
        return _check_config(config, out, weights, engine, overrides, drop_bad, report)


def _check_data(data: Data | Sequence[Data], drop_bad: DropBad, progress: ProgressFn | None) -> CheckReport:
    from scaleprior.corpus import Corpus
    from scaleprior.corpus.check import check_corpus
    from scaleprior.corpus.views.statistics import corpus_statistics
    from scaleprior.detect.data.check import SetFiles, check_sets
    from scaleprior.detect.data.names import names_of_files

    several = data if isinstance(data, Sequence) and not isinstance(data, str) and not _is_pair(data) else [data]
    report = CheckReport()
    sets: list[SetFiles] = []
    names = iter(names_of_files([each[0] for each in several if _is_pair(each)]))
    for each in several:
        if isinstance(each, (str, Path)):
            if str(each).endswith(".json"):
                raise UserError(f"{parameter('data')} is {each}, without its images", hint="give COCO.json and IMAGES")
            with report.collecting("corpus"):
                corpus = Corpus.open(each)
                whole, name = corpus.fraction(images=len(corpus)), f"corpus {each}"
                report.take(check_corpus(whole, name=name, progress=progress))
                statistics = corpus_statistics(whole, sample=0)
                report.statistics[name] = {"sentences": statistics.sentences(), **statistics.to_dict()}
        elif _is_pair(each):
            sets.append(
                SetFiles("val" if sets else "train", next(names), str(each[0]), str(each[1]), drop_bad=drop_bad)
            )
        else:
            raise UserError(f"{parameter('data')} is {each!r}", hint="give an index, or a COCO JSON and its images")
    if sets:
        report.take(check_sets(sets, progress=progress)[0])
    return report


def _is_pair(data: Any) -> TypeGuard[tuple[str | Path, str | Path]]:
    return isinstance(data, tuple) and len(data) == 2 and all(isinstance(each, (str, Path)) for each in data)


def _check_config(
    config: ConfigSource,
    out: str | Path | None,
    weights: str | Path | None,
    engine: str,
    overrides: Mapping[str, Any] | None,
    drop_bad: DropBad | None,
    progress: ProgressFn | None,
) -> CheckReport:
    from scaleprior.detect import get_engine
    from scaleprior.detect.check import check_detection
    from scaleprior.pretrain.check import check_pretraining_run

    chosen = get_engine(engine)
    loaded = open_config(config, overrides, defaults=chosen.default_config())
    if drop_bad is not None:
        loaded = open_config(loaded, {"SCALEPRIOR.DROP_BAD": drop_bad})
    folder = out or loaded.cfg.OUTPUT_DIR
    pretrains = not loaded.cfg.DATASETS.TRAIN and any(key.startswith("PRETRAIN.") for key in loaded.explicit)
    if loaded.cfg.PRETRAIN.CORPUS or pretrains:
        return check_pretraining_run(loaded, folder, progress=progress)
    return check_detection(loaded, weights, folder, engine=chosen, progress=progress)


def _check_study(
    study: str | Path | Mapping[str, Any] | Study,
    out: str | Path | None,
    engine: str,
    overrides: Mapping[str, Any] | None,
    progress: ProgressFn | None,
) -> CheckReport:
    from scaleprior.study.check import check_study
    from scaleprior.study.study import Study

    spec = study.spec if isinstance(study, Study) else Study(study, overrides=overrides).spec
    return check_study(spec, Path(out or spec.name), engine=None if engine == "auto" else engine, progress=progress)
