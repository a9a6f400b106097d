"""The data of a study: the corpus index and the detection set, made or checked before any cell starts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.assumed import warn_of_assumed
from scaleprior.config import load_config
from scaleprior.corpus import Corpus, World, WorldSpec
from scaleprior.corpus.importers import Doubt, open_source
from scaleprior.corpus.importers.doubts import settle
from scaleprior.detect.data.coco import DetectionSet, load_coco, mask_use
from scaleprior.detect.engines import get_engine
from scaleprior.errors import UserError
from scaleprior.files import file_sha256
from scaleprior.progress import ProgressFn
from scaleprior.study.arms import describe_arms
from scaleprior.study.rungs import Rung, describe_rungs, find_rungs
from scaleprior.study.sections import WORLD_NUMBERS, CocoSet, CorpusSection
from scaleprior.study.spec import StudySpec
from scaleprior.wording import Wording, flag

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = [
    "PrepareProgress",
    "StudyData",
    "check_source",
    "describe_data",
    "detection_files",
    "detection_fingerprint",
    "finetuning_config",
    "prepare_data",
]

logger = logging.getLogger(__name__)

PrepareProgress = Callable[[str, int, int], None]
"""``(what, done, total)`` while data are prepared."""


@dataclass(frozen=True)
class StudyData:
    """Prepared data, and hashes that stand for it in the cells' keys.

    Attributes:
        corpus: index folder; None, with 0 images and no fingerprint, in a study of backbones that exist.
        backbones: the ladder of each architecture in such a study.
        train, val: (name, JSON, image root) of the detection sets, as ``SCALEPRIOR.DATASETS`` takes them.
        detection_fingerprint: SHA-256 over both JSON files; images count by their names there.
        counts: what the report says of the data.
    """

    corpus: Path | None
    corpus_images: int
    corpus_fingerprint: str
    train: tuple[str, str, str]
    val: tuple[str, str, str]
    detection_fingerprint: str
    counts: Mapping[str, Any]
    backbones: Mapping[str, tuple[Rung, ...]] = field(default_factory=dict)


def prepare_data(
    spec: StudySpec, out: Path, *, engine: str = "auto", progress: PrepareProgress | None = None
) -> StudyData:
    """Make what is made (synthetic world, index), check what is given; what is already there is kept.

    Args:
        engine: whose keys the fine-tuning config may hold.

    Raises:
        UserError: a missing or empty source, a label that is not in the label space, a hierarchy with a cycle, more
            unreadable images than the corpus allows, a COCO JSON that does not hold together; see :func:`find_rungs`.
    """
    world = _world(spec)
    # first, because an index may take hours
    train, val = _coco_sets(spec, world, out, progress)
    cfg = finetuning_config(spec, engine)
    train_set, val_set = _checked(train, cfg, evaluated=False), _checked(val, cfg, evaluated=True)
    if train_set.class_names != val_set.class_names:
        raise UserError(
            f"{train[1]} and {val[1]} have different categories", hint="give two JSON files with the same categories"
        )
    rungs = find_rungs(spec, progress=lambda what: _named(progress, what))
    cards = {rung.card.tensors_sha256: rung.card for ladder in rungs.values() for rung in ladder}
    for card in cards.values():  # two architectures can start from one file
        warn_of_assumed(card, logger)
    corpus = _corpus(spec, world, out, progress)
    digest = detection_fingerprint(train, val)
    counts = {
        **(_corpus_counts(corpus) if corpus else {}),
        "detection classes": len(train_set.class_names),
        "detection images": f"{len(train_set)} to train, {len(val_set)} to evaluate",
        "boxes": f"{_boxes(train_set)} to train, {_boxes(val_set)} to evaluate",
    }
    if corpus is None:
        return StudyData(None, 0, "", train, val, digest, counts, rungs)
    return StudyData(corpus.path, len(corpus), corpus.fingerprint, train, val, digest, counts)


def detection_fingerprint(train: tuple[str, str, str], val: tuple[str, str, str]) -> str:
    """SHA-256 over both JSON files."""
    return hashlib.sha256("".join(file_sha256(s[1]) for s in (train, val)).encode()).hexdigest()


def _corpus_counts(corpus: Corpus) -> dict[str, Any]:
    source = corpus.facts["source"]
    return {
        "corpus": f"synthetic world, seed {source['seed']}" if source["kind"] == "world" else corpus.name,
        "corpus images": len(corpus),
        "labels": len(corpus.label_space),
        "unreadable images left out": corpus.facts["skipped"]["count"],
    }


def describe_data(spec: StudySpec, data: StudyData, engine: str) -> dict[str, Any]:
    """What the report shows of the settings."""
    noise = spec.noise
    if spec.pretrain is not None:
        corpus = {"corpus fingerprint": data.corpus_fingerprint[:16]}
        pretraining = {
            "label noise": f"{noise['rate']:.0%} wrong ({noise['kind']}), {noise['drop']:.0%} dropped",
            "ladder": ", ".join(f"{n:,}" for n in spec.ladder),
        }
        recipe = {"pretraining recipe": " ".join((spec.pretrain.config, *spec.pretrain.overrides))}
    else:
        corpus, pretraining, recipe = {}, describe_rungs(data.backbones), {"pretraining recipe": "none, see backbones"}
    return {
        **data.counts,
        **corpus,
        "detection fingerprint": data.detection_fingerprint[:16],
        **pretraining,
        "seeds": ", ".join(map(str, spec.seeds)),
        **recipe,
        "fine-tuning recipe": " ".join((spec.finetune.config, *spec.finetune.overrides)),
        **describe_arms(spec),
        "engine": engine,
        "threads a cell": spec.threads,
        "spec": spec.source,
    }


def _world(spec: StudySpec) -> World | None:
    if spec.corpus is None or spec.corpus.world is None:
        return None
    fields = {k: v for k, v in spec.corpus.world.items() if k not in WORLD_NUMBERS}
    return World(WorldSpec.from_dict(fields), spec.corpus.world["seed"])


def _corpus(spec: StudySpec, world: World | None, out: Path, progress: PrepareProgress | None) -> Corpus | None:
    section = spec.corpus
    if section is None:
        return None
    if section.index is not None:
        return Corpus.open(section.index)
    folder = out / "corpus"
    if (folder / "corpus.json").is_file():
        return Corpus.open(folder)
    if world is not None:
        assert section.world is not None
        world.write_corpus(
            folder,
            section.world["images"],
            image_size=section.world["image_size"],
            progress=_named(progress, "pretraining images"),
        )
        return Corpus.open(folder)
    assert section.source is not None
    options = {"name": section.source.name, **_source_options(section)}
    report = _named(progress, "indexing the corpus")
    return Corpus.build(section.source, folder, yes=_refuse_doubt, progress=report, **options)


def check_source(section: CorpusSection) -> None:
    """Open the source of a corpus that is still to be indexed, as far as labels and doubts go: no image is decoded.

    Raises:
        UserError: what ``Corpus.build`` would refuse before it begins.
    """
    assert section.source is not None
    options = {key: value for key, value in _source_options(section).items() if key not in ("name", "salt")}
    settle(open_source(section.source, **options).doubts, _refuse_doubt)


def _source_options(section: CorpusSection) -> dict[str, Any]:
    """What the spec says of the source, with paths from the source's folder; an absolute one stays as it is."""
    assert section.source is not None
    paths = ("labels", "hierarchy", "descriptions")
    return {key: section.source / value if key in paths else value for key, value in section.build.items()}


def _refuse_doubt(doubt: Doubt) -> bool:
    """A study asks nobody: what its corpus means is said in its spec, or where the corpus is indexed."""
    build = f"scaleprior corpus build SRC OUT {flag('yes')}"
    # keys of the spec are called like the parameters, and no flag of this command is
    hint = f"in the spec's section corpus, {Wording(doubt.options)}; or, if it is meant so, index it with: {build}"
    raise UserError(doubt.what, hint=hint)


def detection_files(spec: StudySpec, out: Path) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """(name, JSON, image root) of the sets to train and to evaluate on; those of a world need not be there yet."""
    section = spec.detection
    if section.world is None:
        assert section.train is not None
        assert section.val is not None
        return _named_set("study_train", section.train), _named_set("study_val", section.val)
    folders = {split: (out / "detection" / split).absolute() for split in ("train", "val")}
    train, val = (
        (f"study_{split}", str(folder / "instances.json"), str(folder / "images")) for split, folder in folders.items()
    )
    return train, val


def _coco_sets(
    spec: StudySpec, world: World | None, out: Path, progress: PrepareProgress | None
) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    section = spec.detection
    train, val = detection_files(spec, out)
    for split, (_, json, root) in zip(("train", "val"), (train, val)):
        if section.world is not None and not Path(json).is_file():
            assert world is not None
            written = world.write_detection(
                out / "detection",
                split=split,
                images=section.world[split],
                canvas=section.world["canvas"],
                masks=bool(section.world.get("masks", False)),
                progress=_named(progress, f"detection images ({split})"),
            )
            assert tuple(str(path.absolute()) for path in written) == (json, root)
    return train, val


def _named_set(name: str, coco: CocoSet) -> tuple[str, str, str]:
    return name, str(coco.json.absolute()), str(Path(coco.images).absolute())


def finetuning_config(spec: StudySpec, engine: str) -> CfgNode:
    """The study's fine-tuning, on the keys of the engine that the cells will have."""
    defaults = get_engine(engine).default_config()
    return load_config(spec.finetune.config, spec.finetune.overrides, defaults=defaults).cfg


def _checked(entry: tuple[str, str, str], cfg: CfgNode, *, evaluated: bool) -> DetectionSet:
    name, annotations, root = entry
    masks = mask_use(cfg, evaluated=evaluated)
    return load_coco(annotations, root, name=name, drop_bad=cfg.SCALEPRIOR.DROP_BAD, masks=masks)


def _boxes(detection_set: DetectionSet) -> int:
    return sum(len(r.boxes) for r in detection_set.records)


def _named(progress: PrepareProgress | None, what: str) -> ProgressFn | None:
    if progress is None:
        return None
    return lambda done, total, numbers: progress(what, done, total)
