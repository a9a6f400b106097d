"""The study spec: which corpus, which ladder, which architectures and seeds, which recipes, which detection set.

In place of corpus, ladder, noise and pretrain it may list ``backbones`` that exist already.

A YAML file, or a mapping, with the sections of ``sections.py``; ``configs/studies/`` has commented examples. Paths may
use ``${NAME}`` and ``${NAME:-default}`` environment variables and are relative to the spec's own folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaleprior.errors import UserError
from scaleprior.parsing import is_regular, parse_yaml, read_yaml
from scaleprior.study.helper_files import without_hint
from scaleprior.study.reading import SpecReader
from scaleprior.study.sections import (
    ArmSection,
    BackboneSection,
    CorpusSection,
    DetectionSection,
    ExecutorChoice,
    StageSection,
)
from scaleprior.wording import one_line, shown

__all__ = ["StudySpec", "check_overrides", "load_spec"]


@dataclass(frozen=True)
class StudySpec:
    """A validated study.

    Attributes:
        corpus, pretrain: None in a study of backbones that exist.
        backbones: architecture -> its backbones; empty in a study that pretrains.
        ladder: numbers of pretraining images, rising, each at least 1; empty with backbones, whose cards say it.
        scratch: also run each architecture without pretraining (``images`` 0 in the results).
        architectures: name -> overrides of config keys that make it.
        seeds: one cell is run per architecture, arm, fraction and seed.
        arms: name -> how it fine-tunes; empty where there is one way only, that of ``finetune``.
        noise: ``rate`` of wrong labels in [0, 1], ``kind`` uniform or sibling, ``drop`` of labels in [0, 1].
        engine: ``auto``, ``torchvision``, ``detectron2`` or another that an installed package announces.
        executor: what runs the cells, and where; it does not change what they compute.
        threads: CPU threads of one cell. Part of what determines a result: sums in another order differ in the
            last bits.
        source: the file, or the study's name where there is none; for messages.
        raw: the content, with the overrides in it.
        folder: what relative paths in ``raw`` are relative to.
        path, overrides: the file (None: made from a mapping), and the ``KEY VALUE`` words on top of it.
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
    folder: Path = Path()
    path: Path | None = None
    backbones: Mapping[str, tuple[BackboneSection, ...]] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    executor: ExecutorChoice = field(default_factory=ExecutorChoice)
    arms: Mapping[str, ArmSection] = field(default_factory=dict)

    @classmethod
    def from_dict(
        cls, sections: Mapping[str, Any], *, folder: str | Path = ".", overrides: Mapping[str, Any] | None = None
    ) -> StudySpec:
        """A spec from a mapping of the sections that a YAML file would have.

        Args:
            sections: lists may be tuples, ranges or NumPy's arrays, paths ``Path``, numbers NumPy's, and config keys
                nested mappings.
            folder: what relative paths are relative to.
            overrides: ``{"seeds": [0, 1], "pretrain.overrides": {...}}``: dotted keys, each of which is replaced.

        Raises:
            UserError: names the section and key that is missing, unknown or of a wrong type, or the variable not set.
        """
        check_overrides(overrides)
        raw = _plain(sections)
        if not isinstance(raw, dict):
            raise UserError(f"study spec is {shown(sections)}", hint="give a mapping with the sections of a spec")
        for key, value in (overrides or {}).items():
            _override(raw, str(key), _plain(value))
        where = shown(raw.get("name", "without a name"))
        fields = SpecReader(raw, where, Path(folder)).fields()
        return cls(**fields, source=where, raw=raw, folder=Path(folder).absolute())


def load_spec(path: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> StudySpec:
    """Read and check a spec file.

    Args:
        path: a YAML file; a relative name that does not exist here is looked up in ScalePrior's ``configs/``.
        overrides: ``["seeds", "[0, 1]", "pretrain.overrides", "{...}"]``: dotted keys and YAML values; or a mapping as
            :meth:`StudySpec.from_dict` takes it.

    Raises:
        UserError: names the section and key that is missing, unknown or of a wrong type, or the variable not set.
    """
    from scaleprior.config import data_file

    path = Path(path)
    if not is_regular(path):
        if os.path.exists(path):
            read_yaml(path, what="study spec")  # says what it is instead of a file
        if path.is_absolute():
            raise UserError(f"study spec not found: {path}", hint="check the path")
        path = data_file("configs", str(path.relative_to("configs") if path.parts[:1] == ("configs",) else path))
    raw = read_yaml(path, what="study spec")
    if not isinstance(raw, dict):
        raise UserError(f"study spec {path} holds no mapping", hint="see configs/studies/ for examples")
    if isinstance(overrides, Mapping):
        overrides = [word for key, value in overrides.items() for word in (str(key), _as_yaml(str(key), value))]
    if len(overrides) % 2:
        raise UserError(f"overrides come in pairs KEY VALUE, got: {' '.join(overrides)}")
    for key, text in zip(overrides[::2], overrides[1::2]):
        try:
            value = parse_yaml(text, where=shown(text))
        except UserError as e:
            raise UserError(f"override {key}: {without_hint(e)}", hint="quote the value, in YAML") from e
        _override(raw, key, value)
    fields = SpecReader(raw, str(path), path.parent).fields()
    return StudySpec(
        **fields, source=str(path), raw=raw, folder=path.parent.absolute(), path=path, overrides=tuple(overrides)
    )


def _as_yaml(key: str, value: Any) -> str:
    try:
        return json.dumps(_plain(value))  # JSON is YAML
    except (TypeError, ValueError, RecursionError) as e:
        raise UserError(f"override {key}: {one_line(e)}", hint="give texts, numbers, lists or mappings") from e


def check_overrides(overrides: object) -> None:
    """Raises UserError for what a Python program gives as overrides, if it is no mapping."""
    if overrides is not None and not isinstance(overrides, Mapping):
        raise UserError(f"overrides are {shown(overrides)}", hint='give a mapping, such as {"seeds": [0, 1]}')


def _override(raw: dict[str, Any], key: str, value: Any) -> None:
    node = raw
    *parents, leaf = key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"override {key}: {parent} is not a section of the spec", hint="check the key")
    node[leaf] = value


def _plain(value: Any) -> Any:
    """A copy in the types that YAML has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value  # a number or an array of NumPy's
