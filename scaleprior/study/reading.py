"""Reads a study spec: what it may hold, and how it refuses."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaleprior.backbones.addresses import is_path
from scaleprior.config.dotted import flat_config
from scaleprior.config.keys.key import PRETRAINING
from scaleprior.config.keys.table import find_key
from scaleprior.corpus.world.spec import WorldSpec
from scaleprior.errors import UserError
from scaleprior.parsing import is_regular
from scaleprior.places import check_name
from scaleprior.study.fields import MOST
from scaleprior.study.sections import (
    WORLD_NUMBERS,
    ArmSection,
    BackboneSection,
    CocoSet,
    CorpusSection,
    DetectionSection,
    ExecutorChoice,
    StageSection,
)
from scaleprior.wording import shown

__all__ = ["SpecReader", "owner_of"]

# Of section corpus with ``source``: what ``Corpus.build`` calls so.
_CORPUS_BUILD = (
    "labels", "hierarchy", "descriptions", "file_column", "label_column", "split", "split_column", "separator",
    "missing", "confidence_column", "min_confidence", "uncertain", "encoding", "skip_missing", "name", "salt",
)  # fmt: skip
_SECTIONS = {
    "": {
        "name", "corpus", "detection", "ladder", "scratch", "architectures", "seeds", "noise", "pretrain", "finetune",
        "engine", "executor", "threads", "backbones", "arms",
    },
    "corpus": {"world", "source", "index", *_CORPUS_BUILD},
    "corpus.world": None,  # its fields are the world's own, WORLD_NUMBERS aside
    "detection": {"world", "train", "val"},
    "detection.world": {"train", "val", "canvas", "masks"},
    "detection.train": {"json", "images"},
    "detection.val": {"json", "images"},
    "noise": {"rate", "kind", "drop"},
    "pretrain": {"config", "overrides"},
    "finetune": {"config", "overrides"},
    "arms": None,  # name -> how it fine-tunes
    "arms[]": {"pieces", "overrides", "only", "architectures"},
    "executor": None,  # its name and its own options, which it knows
    "backbones": None,  # architecture -> list of backbones
    "backbones[]": {"weights", "images", "supervision"},
}  # fmt: skip
# A study either pretrains or takes backbones that exist; these say how to pretrain.
_PRETRAINING = ("corpus", "ladder", "noise", "pretrain")
# Keys that every cell sets for itself, and what of the spec says them; a key with "." at its end stands for all below.
_OF_THE_SPEC = {
    "SEED": "seeds",
    "PRETRAIN.CORPUS": "corpus",
    "PRETRAIN.FRACTION.": "ladder",
    "PRETRAIN.NOISE.RATE": "noise",
    "PRETRAIN.NOISE.KIND": "noise",
    "PRETRAIN.NOISE.DROP": "noise",
    "SCALEPRIOR.DATASETS": "detection",
    "DATASETS.TRAIN": "detection",
    "DATASETS.TEST": "detection",
}
# Of an arm; it becomes part of folder names and of a column in results.csv.
_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def owner_of(key: str) -> str | None:
    """The section of the spec that says a config key for every cell; None where ``overrides`` may say it."""
    for own, section in _OF_THE_SPEC.items():
        if key == own or (own.endswith(".") and key.startswith(own)):
            return section
    return None


class SpecReader:
    """Turns a parsed spec into sections; every complaint names the spec and the key.

    Args:
        raw: as YAML gives it: dicts, lists, text, numbers.
        where: the file or the name of the study, for complaints.
        folder: what relative paths are relative to.
    """

    def __init__(self, raw: dict[str, Any], where: str, folder: Path) -> None:
        self.raw = raw
        self.where = where
        self.folder = folder

    def fields(self) -> dict[str, Any]:
        """The fields of :class:`scaleprior.study.spec.StudySpec` that the spec's own content says.

        Raises:
            UserError: names the section and key that is missing, unknown or of a wrong type, or the variable not set.
        """
        self._check_keys("", self.raw)
        name = self._name()
        pretrains = "backbones" not in self.raw
        if not pretrains and (both := [key for key in _PRETRAINING if key in self.raw]):
            raise self._fail(
                f"has backbones and {', '.join(both)}", "keep backbones, or what says how to pretrain them"
            )
        architectures = self._architectures()
        scratch = self._get(self.raw, "scratch", bool, True)
        return {
            "name": name,
            "corpus": self._corpus() if pretrains else None,
            "detection": self._detection(),
            "ladder": self._ladder() if pretrains else (),
            "scratch": scratch,
            "architectures": architectures,
            "seeds": self._seeds(),
            "noise": self._noise(),
            "pretrain": self._stage("pretrain") if pretrains else None,
            "finetune": self._stage("finetune"),
            "engine": self._get(self.raw, "engine", str, "auto"),
            "executor": self._executor(),
            "threads": self._positive("threads", 1),
            "backbones": {} if pretrains else self._backbones(architectures),
            "arms": self._arms(architectures, scratch=scratch),
        }

    def _fail(self, message: str, hint: str) -> UserError:
        return UserError(f"study spec {self.where}: {message}", hint=hint)

    def _check_keys(self, section: str, node: Mapping[str, Any]) -> None:
        known = _SECTIONS[section]
        if known is None:
            return
        for key in node:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                where = f" in section {section}" if section else ""
                raise self._fail(
                    f"unknown key {shown(key)}{where}",
                    f"did you mean {shown(near[0])}?" if near else f"known: {sorted(known)}",
                )

    def _get(self, node: Mapping[str, Any], key: str, kind: type, default: Any = ...) -> Any:
        value = node.get(key, default)
        if value is ...:
            raise self._fail(f"key {shown(key)} is missing", "see configs/studies/ for examples")
        if not isinstance(value, kind) and value is not default:
            raise self._fail(f"{key} is {shown(value)}, expected {kind.__name__}", "correct the value")
        return value

    def _section(self, key: str, parent: Mapping[str, Any] | None = None, prefix: str = "") -> Mapping[str, Any] | None:
        node = (self.raw if parent is None else parent).get(key)
        if node is None:
            return None
        if not isinstance(node, dict):
            raise self._fail(f"{prefix}{key} is {shown(node)}, expected a section", "see configs/studies/ for examples")
        self._check_keys(f"{prefix}{key}", node)
        return node

    def _expand(self, text: Any, key: str) -> str:
        if not isinstance(text, str):
            raise self._fail(f"{key} is {shown(text)}, expected a path", "correct the value")

        def value(match: re.Match[str]) -> str:
            found = os.environ.get(match[1], match[2])
            if found is None:
                raise self._fail(
                    f"{key} is {shown(text)}, but the environment variable {match[1]} is not set",
                    f"set {match[1]} or write the path into the spec",
                )
            return found

        try:
            expanded = Path(_VARIABLE.sub(value, text)).expanduser()
        except RuntimeError as e:  # of ~NAME
            raise self._fail(f"{key} is {shown(text)}: {e}", "write the whole path") from e
        return str(expanded if expanded.is_absolute() else self.folder / expanded)

    def _name(self) -> str:
        name = self._get(self.raw, "name", str)
        if not name.strip():
            raise self._fail(f"name is {shown(name)}", "give one that a folder may have")
        return check_name(name, what=f"study spec {self.where}: name")  # of the folder, unless another is given

    def _corpus(self) -> CorpusSection:
        node = self._section("corpus")
        kinds = [k for k in ("world", "source", "index") if node and k in node]
        if node is None or len(kinds) != 1:
            raise self._fail(f"corpus needs exactly one of world, source and index, has {kinds}", "keep one")
        world = self._section("world", node, "corpus.")
        if world is not None:
            self._check_world(world)
        build = {key: node[key] for key in _CORPUS_BUILD if key in node}
        if build and "source" not in node:
            raise self._fail(f"{sorted(build)} in section corpus only go with source", "remove them")
        for key in ("labels", "hierarchy", "descriptions", "name", "salt"):  # the others are TableOptions' to check
            self._get(build, key, str, "")
        return CorpusSection(
            world=world,
            source=Path(self._expand(node["source"], "corpus.source")) if "source" in node else None,
            index=Path(self._expand(node["index"], "corpus.index")) if "index" in node else None,
            build=build,
        )

    def _check_world(self, world: Mapping[str, Any]) -> None:
        for key in WORLD_NUMBERS:
            value = world.get(key)
            if type(value) is not int or not 0 <= value <= MOST:
                raise self._fail(f"corpus.world.{key} is {shown(value)}", "give a whole number")
        try:
            WorldSpec.from_dict({key: value for key, value in world.items() if key not in WORLD_NUMBERS})
        except UserError as e:
            raise self._fail(f"corpus.world: {e}", "") from e

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
                if type(value) is not int or not 1 <= value <= MOST:
                    raise self._fail(f"detection.world.{key} is {shown(value)}", "give a whole number of at least 1")
            if not isinstance(world.get("masks", False), bool):
                raise self._fail(f"detection.world.masks is {shown(world['masks'])}", "give true or false")
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
        if not ladder or not all(type(n) is int and 1 <= n <= MOST for n in ladder):
            raise self._fail(f"ladder is {shown(ladder)}", "list whole numbers of images, each at least 1")
        if sorted(set(ladder)) != ladder:
            raise self._fail(f"ladder {shown(ladder)} does not rise", "sort it and remove repeats")
        return tuple(ladder)

    def _seeds(self) -> tuple[int, ...]:
        given = self._get(self.raw, "seeds", list, [0])
        seeds = [self._as_key("seeds", seed, "SEED") for seed in given]
        if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):  # as a key, a negative one would mean 0
            raise self._fail(f"seeds is {shown(given)}", "list different whole numbers, each at least 0")
        return tuple(seeds)

    def _as_key(self, where: str, value: Any, name: str) -> Any:
        """A value that becomes that of the config key ``name``, whose row says what it may be."""
        key = find_key(name)
        assert key is not None
        try:
            value = key.read(value, where)
            key.check(value, PRETRAINING)
        except UserError as e:
            raise self._fail(f"{where} is {shown(value)}", str(e.hint)) from e
        return value

    def _positive(self, key: str, default: int) -> int:
        value = self.raw.get(key, default)
        if type(value) is not int or not 1 <= value <= MOST:
            raise self._fail(f"{key} is {shown(value)}", "give a whole number of at least 1")
        return value

    def _executor(self) -> ExecutorChoice:
        node = self.raw.get("executor", "local")
        node = {"name": node} if isinstance(node, str) else node
        if not isinstance(node, dict) or not isinstance(node.get("name"), str):
            raise self._fail(f"executor is {shown(node)}", "give its name, or {name: NAME} with its own options")
        return ExecutorChoice(node["name"], {str(k): v for k, v in node.items() if k != "name"})

    def _noise(self) -> Mapping[str, Any]:
        node = {"rate": 0.0, "kind": "uniform", "drop": 0.0, **(self._section("noise") or {})}
        return {key: self._as_key(f"noise.{key}", v, f"PRETRAIN.NOISE.{key.upper()}") for key, v in node.items()}

    def _architectures(self) -> Mapping[str, tuple[str, ...]]:
        node = self._get(self.raw, "architectures", dict)
        if not node:
            raise self._fail("architectures is empty", "name at least one, such as R-50: {MODEL.RESNETS.DEPTH: 50}")
        names = [check_name(str(name), what=f"study spec {self.where}: an architecture") for name in node]
        return {name: self._pairs(keys or {}, f"architectures.{name}") for name, keys in zip(names, node.values())}

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
                raise self._fail(f"backbones.{arch} is {shown(node[arch])}", "list at least one backbone")
            found[arch] = tuple(self._backbone(item, f"backbones.{arch}") for item in node[arch])
        return found

    def _backbone(self, item: Any, where: str) -> BackboneSection:
        if not isinstance(item, dict):
            raise self._fail(f"{where} has {shown(item)}", "write {weights: FILE or scaleprior://NAME, images: N}")
        self._check_keys("backbones[]", item)
        weights, images, supervision = (item.get(key) for key in ("weights", "images", "supervision"))
        if images is not None and (type(images) is not int or not 1 <= images <= MOST):
            raise self._fail(f"{where}: images is {shown(images)}", "give a whole number of at least 1")
        if supervision is not None and (not isinstance(supervision, str) or not supervision.strip()):
            raise self._fail(f"{where}: supervision is {shown(supervision)}", "give text")
        if not isinstance(weights, str) or is_path(weights):
            weights = self._expand(weights, f"{where}: weights")
        return BackboneSection(weights, images, supervision)

    def _arms(self, architectures: Mapping[str, Any], *, scratch: bool) -> Mapping[str, ArmSection]:
        node = self._section("arms") or {}
        arms = {name: self._arm(name, arm, architectures) for name, arm in node.items()}
        for name, arm in arms.items():
            if arm.only == "scratch" and not scratch:
                raise self._fail(f"arms.{name} has no cells: only is 'scratch', scratch is false", "correct either")
        for arch in architectures if arms else ():
            if not any(arm.takes(arch, 1) for arm in arms.values()):
                raise self._fail(f"no arm fine-tunes {arch} from pretrained backbones", "add it to one, or remove it")
        if arms and self.raw.get("scratch") is True and all(arm.only == "pretrained" for arm in arms.values()):
            raise self._fail("scratch is true, every arm has only 'pretrained'", "correct either")
        return arms

    def _arm(self, name: Any, node: Any, architectures: Mapping[str, Any]) -> ArmSection:
        where, node = f"arms.{name}", {} if node is None else node
        if not isinstance(name, str) or not _ARM_NAME.fullmatch(name):
            raise self._fail(f"{where}: {shown(name)} is no name of an arm", "give letters, digits, '-', '_' and '.'")
        if not isinstance(node, dict):
            raise self._fail(f"{where} is {shown(node)}", "write {pieces: [FILE], overrides: {KEY: VALUE}}, or {}")
        self._check_keys("arms[]", node)
        pieces, of, only = node.get("pieces") or [], node.get("architectures"), node.get("only", "")
        if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
            raise self._fail(f"{where}.pieces is {shown(pieces)}", "list files, as finetune.config names one")
        if only not in ("", "scratch", "pretrained"):
            raise self._fail(f"{where}.only is {shown(only)}", "write scratch or pretrained, or leave it out for both")
        if of is not None and (not isinstance(of, list) or not of or not {*map(str, of)} <= set(architectures)):
            raise self._fail(f"{where}.architectures is {shown(of)}", f"list some of {', '.join(architectures)}")
        overrides = self._pairs(node.get("overrides") or {}, f"{where}.overrides")
        chosen = None if of is None else tuple(map(str, of))
        return ArmSection(tuple(map(self._beside, pieces)), overrides, only, chosen)

    def _stage(self, key: str) -> StageSection:
        node = self._section(key)
        if node is None or not isinstance(node.get("config"), str):
            raise self._fail(f"section {key} needs a config", "see configs/studies/ for examples")
        return StageSection(self._beside(node["config"]), self._pairs(node.get("overrides") or {}, f"{key}.overrides"))

    def _beside(self, config: str) -> str:
        """A config next to the spec, which wins over one of the same name of ScalePrior's."""
        beside = self.folder / config
        return str(beside) if is_regular(beside) else config

    def _pairs(self, node: Any, where: str) -> tuple[str, ...]:
        if not isinstance(node, dict):
            raise self._fail(f"{where} is {shown(node)}", "write KEY: VALUE lines")
        pairs = [(str(key), value) for key, value in flat_config(node)]
        for key, value in pairs:
            if (section := owner_of(key)) is not None:
                raise self._fail(
                    f"{where} sets {key} to {shown(value)}, which the study itself sets", f"say it under {section}"
                )
        return tuple(text for key, value in pairs for text in (key, value if isinstance(value, str) else repr(value)))
