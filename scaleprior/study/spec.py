"""The study spec: which corpus, which ladder, which architectures and seeds, which recipes, which detection set.

In place of corpus, ladder, noise and pretrain it may list ``backbones`` that exist already.

A YAML file with the sections below; ``configs/studies/`` has commented examples. Paths may use ``${NAME}`` and
``${NAME:-default}`` environment variables and are relative to the spec's own folder.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from scaleprior.errors import UserError
from scaleprior.study.executors.executor import ExecutorChoice

__all__ = ["BackboneSection", "CocoSet", "CorpusSection", "DetectionSection", "StageSection", "StudySpec", "load_spec"]

_SECTIONS = {
    "": {
        "name", "corpus", "detection", "ladder", "scratch", "architectures", "seeds", "noise", "pretrain", "finetune",
        "engine", "executor", "threads", "backbones",
    },
    "corpus": {"world", "source", "index", "labels", "label_column", "hierarchy", "split", "name", "salt"},
    "corpus.world": None,  # checked by the world itself, which knows its fields
    "detection": {"world", "train", "val"},
    "detection.world": {"train", "val", "canvas"},
    "detection.train": {"json", "images"},
    "detection.val": {"json", "images"},
    "noise": {"rate", "kind", "drop"},
    "pretrain": {"config", "overrides"},
    "finetune": {"config", "overrides"},
    "executor": None,  # its name and its own options, which it knows
    "backbones": None,  # architecture -> list of backbones
    "backbones[]": {"weights", "images", "supervision"},
}  # fmt: skip
# A study either pretrains or takes backbones that exist; these say how to pretrain.
_PRETRAINING = ("corpus", "ladder", "noise", "pretrain")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class CorpusSection:
    """Where the pretraining images come from: exactly one of ``world``, ``source`` and ``index``.

    Attributes:
        world: parameters of the synthetic world (``images``, ``image_size``, ``seed`` and the world's own).
        source: a folder of class folders, or of tar files with a CSV of labels.
        index: an index folder that ``scaleprior corpus build`` made.
        build: for ``source``: labels, label_column, hierarchy, split, name, salt, as ``corpus build`` takes them.
    """

    world: Mapping[str, Any] | None
    source: Path | None
    index: Path | None
    build: Mapping[str, Any]


@dataclass(frozen=True)
class CocoSet:
    """One COCO-format JSON and its images: a folder, a tar, or a pattern that names several tars."""

    json: Path
    images: str


@dataclass(frozen=True)
class DetectionSection:
    """The detection set: from the corpus's own synthetic world (counts and canvas), or two COCO-format sets."""

    world: Mapping[str, int] | None
    train: CocoSet | None
    val: CocoSet | None


@dataclass(frozen=True)
class StageSection:
    """A config file and ``KEY VALUE ...`` overrides for one stage."""

    config: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class BackboneSection:
    """A backbone that exists already.

    Attributes:
        weights: a canonical file, or ``scaleprior://NAME``.
        images: pretraining images; None takes the card's.
        supervision: what told right from wrong; None takes the catalogue's.
    """

    weights: str
    images: int | None = None
    supervision: str | None = None


@dataclass(frozen=True)
class StudySpec:
    """A validated study.

    Attributes:
        corpus, pretrain: None in a study of backbones that exist.
        backbones: architecture -> its backbones; empty in a study that pretrains.
        ladder: numbers of pretraining images, rising, each at least 1; empty with backbones, whose cards say it.
        scratch: also run each architecture without pretraining (``images`` 0 in the results).
        architectures: name -> overrides of config keys that make it.
        seeds: one cell is run per architecture, fraction and seed.
        noise: ``rate`` of wrong labels in [0, 1), ``kind`` uniform or sibling, ``drop`` of labels in [0, 1).
        engine: ``auto``, ``torchvision``, ``detectron2`` or another that an installed package announces.
        executor: what runs the cells, and where; it does not change what they compute.
        threads: CPU threads of one cell. Part of what determines a result: sums in another order differ in the
            last bits.
        source, raw, overrides: the file, its content with the overrides in it, and those ``KEY VALUE`` words.
    """

    name: str
    corpus: CorpusSection | None
    detection: DetectionSection
    ladder: tuple[int, ...]
    scratch: bool
    architectures: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    noise: Mapping[str, Any]
    pretrain: StageSection | None
    finetune: StageSection
    engine: str
    threads: int
    source: str
    raw: Mapping[str, Any]
    backbones: Mapping[str, tuple[BackboneSection, ...]] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    executor: ExecutorChoice = field(default_factory=ExecutorChoice)


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read and check a spec.

    Args:
        path: a YAML file; a relative name that does not exist here is looked up in ScalePrior's ``configs/``.
        overrides: ``["seeds", "[0, 1]", "pretrain.overrides", "{...}"]``: dotted keys and YAML values.

    Raises:
        UserError: names the section and key that is missing, unknown or of a wrong type, or the variable not set.
    """
    from scaleprior.config import data_file

    path = Path(path)
    if not path.is_file():
        if path.is_absolute():
            raise UserError(f"study spec not found: {path}", hint="check the path")
        path = data_file("configs", str(path.relative_to("configs") if path.parts[:1] == ("configs",) else path))
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise UserError(f"study spec {path} cannot be read: {' '.join(str(e).split())}", hint="repair the YAML") from e
    if not isinstance(raw, dict):
        raise UserError(f"study spec {path} holds no mapping", hint="see configs/studies/ for examples")
    if len(overrides) % 2:
        raise UserError(f"overrides come in pairs KEY VALUE, got: {' '.join(overrides)}")
    for key, text in zip(overrides[::2], overrides[1::2]):
        _override(raw, key, text)
    return replace(_Reader(raw, path).spec(), overrides=tuple(overrides))


def _override(raw: dict[str, Any], key: str, text: str) -> None:
    node = raw
    *parents, leaf = key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"override {key}: {parent} is not a section of the spec", hint="check the key")
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise UserError(f"override {key}: {text!r} is not YAML", hint="quote the value") from e


class _Reader:
    """Turns the parsed YAML into a StudySpec; every complaint names the file and the key."""

    def __init__(self, raw: dict[str, Any], path: Path) -> None:
        self.raw = raw
        self.path = path

    def spec(self) -> StudySpec:
        self._check_keys("", self.raw)
        name = self._get(self.raw, "name", str)
        pretrains = "backbones" not in self.raw
        if not pretrains and (both := [key for key in _PRETRAINING if key in self.raw]):
            raise self._fail(
                f"has backbones and {', '.join(both)}", "keep backbones, or what says how to pretrain them"
            )
        architectures = self._architectures()
        return StudySpec(
            name=name,
            corpus=self._corpus() if pretrains else None,
            detection=self._detection(),
            ladder=self._ladder() if pretrains else (),
            scratch=self._get(self.raw, "scratch", bool, True),
            architectures=architectures,
            seeds=self._seeds(),
            noise=self._noise(),
            pretrain=self._stage("pretrain") if pretrains else None,
            finetune=self._stage("finetune"),
            engine=self._get(self.raw, "engine", str, "auto"),
            executor=self._executor(),
            threads=self._positive("threads", 1),
            source=str(self.path),
            raw=self.raw,
            backbones={} if pretrains else self._backbones(architectures),
        )

    def _fail(self, message: str, hint: str) -> UserError:
        return UserError(f"study spec {self.path}: {message}", hint=hint)

    def _check_keys(self, section: str, node: Mapping[str, Any]) -> None:
        known = _SECTIONS[section]
        if known is None:
            return
        for key in node:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                where = f" in section {section}" if section else ""
                raise self._fail(
                    f"unknown key {key!r}{where}", f"did you mean {near[0]!r}?" if near else f"known: {sorted(known)}"
                )

    def _get(self, node: Mapping[str, Any], key: str, kind: type, default: Any = ...) -> Any:
        value = node.get(key, default)
        if value is ...:
            raise self._fail(f"key {key!r} is missing", "see configs/studies/ for examples")
        if not isinstance(value, kind) and value is not default:
            raise self._fail(f"{key} is {value!r}, expected {kind.__name__}", "correct the value")
        return value

    def _section(self, key: str, parent: Mapping[str, Any] | None = None, prefix: str = "") -> Mapping[str, Any] | None:
        node = (self.raw if parent is None else parent).get(key)
        if node is None:
            return None
        if not isinstance(node, dict):
            raise self._fail(f"{prefix}{key} is {node!r}, expected a section", "see configs/studies/ for examples")
        self._check_keys(f"{prefix}{key}", node)
        return node

    def _expand(self, text: Any, key: str) -> str:
        if not isinstance(text, str):
            raise self._fail(f"{key} is {text!r}, expected a path", "correct the value")

        def value(match: re.Match[str]) -> str:
            found = os.environ.get(match[1], match[2])
            if found is None:
                raise self._fail(
                    f"{key} is {text!r}, but the environment variable {match[1]} is not set",
                    f"set {match[1]} or write the path into the spec",
                )
            return found

        expanded = Path(_VARIABLE.sub(value, text)).expanduser()
        return str(expanded if expanded.is_absolute() else self.path.parent / expanded)

    def _corpus(self) -> CorpusSection:
        node = self._section("corpus")
        kinds = [k for k in ("world", "source", "index") if node and k in node]
        if node is None or len(kinds) != 1:
            raise self._fail(f"corpus needs exactly one of world, source and index, has {kinds}", "keep one")
        world = self._section("world", node, "corpus.")
        build = {k: node[k] for k in ("labels", "label_column", "hierarchy", "split", "name", "salt") if k in node}
        if build and "source" not in node:
            raise self._fail(f"{sorted(build)} in section corpus only go with source", "remove them")
        return CorpusSection(
            world=world,
            source=Path(self._expand(node["source"], "corpus.source")) if "source" in node else None,
            index=Path(self._expand(node["index"], "corpus.index")) if "index" in node else None,
            build=build,
        )

    def _detection(self) -> DetectionSection:
        node = self._section("detection") or {}
        world = self._section("world", node, "detection.")
        if world is not None:
            if "train" in node or "val" in node:
                raise self._fail("detection has both world and train/val", "keep one")
            if "world" not in (self._section("corpus") or {}):
                raise self._fail("detection.world needs corpus.world", "give detection.train and detection.val")
            for key in ("train", "val", "canvas"):
                value = world.get(key)
                if not isinstance(value, int) or value < 1:
                    raise self._fail(f"detection.world.{key} is {value!r}", "give a whole number of at least 1")
            return DetectionSection(world, None, None)
        sets = []
        for key in ("train", "val"):
            part = self._section(key, node, "detection.")
            if part is None or set(part) != {"json", "images"}:
                raise self._fail(f"detection.{key} needs json and images", "see configs/studies/real_images.yaml")
            sets.append(
                CocoSet(
                    Path(self._expand(part["json"], f"detection.{key}.json")),
                    self._expand(part["images"], f"detection.{key}.images"),
                )
            )
        return DetectionSection(None, *sets)

    def _ladder(self) -> tuple[int, ...]:
        ladder = self._get(self.raw, "ladder", list)
        if not ladder or not all(type(n) is int and n >= 1 for n in ladder):
            raise self._fail(f"ladder is {ladder!r}", "list whole numbers of images, each at least 1")
        if sorted(set(ladder)) != ladder:
            raise self._fail(f"ladder {ladder!r} does not rise", "sort it and remove repeats")
        return tuple(ladder)

    def _seeds(self) -> tuple[int, ...]:
        seeds = self._get(self.raw, "seeds", list, [0])
        if not seeds or not all(type(s) is int and s >= 0 for s in seeds) or len(set(seeds)) != len(seeds):
            raise self._fail(f"seeds is {seeds!r}", "list different whole numbers, each at least 0")
        return tuple(seeds)

    def _positive(self, key: str, default: int) -> int:
        value = self.raw.get(key, default)
        if type(value) is not int or value < 1:
            raise self._fail(f"{key} is {value!r}", "give a whole number of at least 1")
        return value

    def _executor(self) -> ExecutorChoice:
        node = self.raw.get("executor", "local")
        node = {"name": node} if isinstance(node, str) else node
        if not isinstance(node, dict) or not isinstance(node.get("name"), str):
            raise self._fail(f"executor is {node!r}", "give its name, or {name: NAME} with its own options")
        return ExecutorChoice(node["name"], {str(k): v for k, v in node.items() if k != "name"})

    def _noise(self) -> Mapping[str, Any]:
        node = {"rate": 0.0, "kind": "uniform", "drop": 0.0, **(self._section("noise") or {})}
        for key in ("rate", "drop"):
            value = node[key]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise self._fail(f"noise.{key} is {value!r}", "give a share in [0, 1)")
            node[key] = float(value)
        if node["kind"] not in ("uniform", "sibling"):
            raise self._fail(f"noise.kind is {node['kind']!r}", "choose uniform or sibling")
        return node

    def _architectures(self) -> Mapping[str, tuple[str, ...]]:
        node = self._get(self.raw, "architectures", dict)
        if not node:
            raise self._fail("architectures is empty", "name at least one, such as R-50: {MODEL.RESNETS.DEPTH: 50}")
        return {str(name): self._pairs(keys or {}, f"architectures.{name}") for name, keys in node.items()}

    def _backbones(self, architectures: Mapping[str, Any]) -> Mapping[str, tuple[BackboneSection, ...]]:
        node = self._section("backbones") or {}
        if set(node) != set(architectures):
            raise self._fail(
                f"backbones are given for {sorted(map(str, node))}, architectures are {sorted(architectures)}",
                "list the backbones of each architecture",
            )
        found = {}
        for arch in architectures:
            if not isinstance(node[arch], list) or not node[arch]:
                raise self._fail(f"backbones.{arch} is {node[arch]!r}", "list at least one backbone")
            found[arch] = tuple(self._backbone(item, f"backbones.{arch}") for item in node[arch])
        return found

    def _backbone(self, item: Any, where: str) -> BackboneSection:
        if not isinstance(item, dict):
            raise self._fail(f"{where} has {item!r}", "write {weights: FILE or scaleprior://NAME, images: N}")
        self._check_keys("backbones[]", item)
        weights, images, supervision = (item.get(key) for key in ("weights", "images", "supervision"))
        if images is not None and (type(images) is not int or images < 1):
            raise self._fail(f"{where}: images is {images!r}", "give a whole number of at least 1")
        if supervision is not None and (not isinstance(supervision, str) or not supervision.strip()):
            raise self._fail(f"{where}: supervision is {supervision!r}", "give text")
        if not (isinstance(weights, str) and weights.startswith("scaleprior://")):
            weights = self._expand(weights, f"{where}: weights")
        return BackboneSection(weights, images, supervision)

    def _stage(self, key: str) -> StageSection:
        node = self._section(key)
        if node is None or not isinstance(node.get("config"), str):
            raise self._fail(f"section {key} needs a config", "see configs/studies/ for examples")
        config = node["config"]
        beside = self.path.parent / config  # a config next to the spec wins over one of the same name of ScalePrior's
        return StageSection(
            str(beside) if beside.is_file() else config, self._pairs(node.get("overrides") or {}, f"{key}.overrides")
        )

    def _pairs(self, node: Any, where: str) -> tuple[str, ...]:
        if not isinstance(node, dict):
            raise self._fail(f"{where} is {node!r}", "write KEY: VALUE lines")
        return tuple(text for k, v in node.items() for text in (str(k), v if isinstance(v, str) else repr(v)))
