"""Read a Detectron2-style YAML with overrides, remembering which keys were set on purpose.

The contract between weights and config needs that: a key that the config left alone follows the weights' card, a key
that somebody set and that contradicts the card is an error.
"""

from __future__ import annotations

import difflib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from scaleprior.config.bases import with_bases
from scaleprior.config.dotted import flat_config, get_key
from scaleprior.config.keys.key import read_value
from scaleprior.config.keys.table import find_key, nearest
from scaleprior.config.seed import run_seed
from scaleprior.errors import UserError
from scaleprior.parsing import is_regular, parse_literal
from scaleprior.wording import in_short, parameter, shown

__all__ = [
    "LoadedConfig",
    "UnknownKeyError",
    "data_file",
    "detectron2_defaults",
    "file_keys",
    "load_config",
    "override_config",
    "parse_overrides",
]

logger = logging.getLogger(__name__)

_LONGEST_NAME = 200  # characters of a dotted key; the longest of Detectron2's and ours has 59
# Sections of parts that no config we honour can switch on (keypoints, other detectors): their keys do nothing in
# Detectron2 either unless the part is on, and Detectron2's base configs set some of them for everybody.
_INERT_SECTIONS = tuple(
    f"MODEL.{part}."
    for part in (
        "ROI_KEYPOINT_HEAD", "SEM_SEG_HEAD", "PANOPTIC_FPN", "RETINANET", "ROI_BOX_CASCADE_HEAD",
    )
)  # fmt: skip


class UnknownKeyError(UserError):
    """A key that is neither ours nor Detectron2's."""


@dataclass(frozen=True)
class LoadedConfig:
    """A resolved, frozen config with its history.

    Attributes:
        cfg: every key, with its final value.
        explicit: dotted names of the keys that the file, its bases or the overrides set.
        source: where it came from, for error messages.
    """

    cfg: CfgNode
    explicit: frozenset[str]
    source: str


def data_file(folder: str, name: str) -> Path:
    """Path of a file of ``configs/`` or ``model_zoo/``: in the checkout, or in the installed package.

    Raises:
        UserError: there is no such file; lists the nearest names.
    """
    package = Path(__file__).resolve().parents[1]
    roots = (package / "_data" / folder, package.parent / folder)
    root = next((r for r in roots if r.is_dir()), roots[0])
    path = root / name
    if is_regular(path):
        return path
    known = sorted(str(p.relative_to(root)) for p in root.rglob("*.y*ml"))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:5]
    raise UserError(f"no file {in_short(name)} in ScalePrior's {folder}/", hint=f"there are {', '.join(near)}")


def load_config(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    pieces: Sequence[str | Path] = (),
    defaults: CfgNode | None = None,
) -> LoadedConfig:
    """The defaults, then ``path`` (with its ``_BASE_`` files), then ``KEY VALUE`` overrides; a negative SEED becomes 0.

    Args:
        path: a YAML file; a relative name that does not exist here is looked up in ScalePrior's ``configs/``.
            ``config.yaml`` of a run is taken with the ``scaleprior.yaml`` beside it. None takes the defaults.
        pieces: further files, looked up as ``path`` is and laid over it in their order, below the overrides.
        overrides: ``["SOLVER.MAX_ITER", "100", ...]`` as on Detectron2's command line.
        defaults: every key there is, at its default (``Engine.default_config()``); None = ``get_cfg()``. Not changed.

    Raises:
        UserError: a missing file, a circular base, YAML that does not parse, an unknown key, a key that only the
            detectron2 engine honours (and that would matter), or a value of another type.
    """
    from scaleprior.config.defaults import get_cfg

    cfg = get_cfg() if defaults is None else defaults.clone()
    explicit: set[str] = set()
    files = [_find(file) for file in ([] if path is None else [path]) + list(pieces)]
    lines = (line for file in files for line in _lines(file))
    for origin, of_file in itertools.groupby(lines, key=lambda line: line[0]):
        explicit |= _set_all(cfg, [(key, value) for _, key, value in of_file], origin)
    loaded = LoadedConfig(cfg, frozenset(explicit), " with ".join(map(str, files)) or "defaults")
    return override_config(loaded, parse_overrides(overrides), origin="the command line")


def override_config(loaded: LoadedConfig, pairs: Iterable[tuple[str, Any]], *, origin: str) -> LoadedConfig:
    """``loaded`` with (dotted key, value) pairs set on top, frozen; ``loaded`` itself stays as it is.

    Raises:
        UserError: as :func:`load_config`; says that ``origin`` set the key.
    """
    cfg, explicit = loaded.cfg.clone(), set(loaded.explicit)
    cfg.defrost()
    explicit |= _set_all(cfg, list(pairs), origin)
    cfg.SEED = run_seed(cfg)
    cfg.freeze()
    return LoadedConfig(cfg, frozenset(explicit), loaded.source)


def parse_overrides(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """``KEY VALUE`` pairs with values read as Python literals, so ``1.0``, ``(1, 2)``, ``"BN"`` and ``BN`` work."""
    for word in overrides:
        if isinstance(word, str) and word.startswith("--"):
            word = word[:_LONGEST_NAME]
            raise UserError(f"{word} stands among the KEY VALUE words", hint=f"put {word} before the first of them")
    if len(overrides) % 2:
        words = " ".join(map(str, overrides))
        raise UserError(f"overrides come in pairs KEY VALUE, got {len(overrides)} words: {words[:1000]}")
    return [(key, _parse_value(text)) for key, text in zip(overrides[::2], overrides[1::2])]


def _parse_value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return parse_literal(text)  # Detectron2's own reading; a bare word is a string
    except ValueError:
        return text


def file_keys(path: str | Path) -> dict[str, Any]:
    """The keys that a YAML file and its ``_BASE_`` files set, by dotted names, as YAML reads their values.

    Args:
        path: as :func:`load_config` takes it.

    Raises:
        UserError: a missing file, a circular base, or YAML that does not parse.
    """
    return {key: value for _, key, value in _lines(_find(path))}


def _lines(path: Path) -> Iterator[tuple[str, str, Any]]:
    """(origin, dotted key, value) of a file and its bases; the later ones win."""
    for origin, content in with_bases(path):
        for key, value in flat_config(content):
            if len(key) > _LONGEST_NAME:  # at once: every key of a section repeats its name
                raise _unknown(key, origin, hint="see configs/")
            yield origin, key, _parse_value(value)


def _find(path: str | Path) -> Path:
    path = Path(path)
    if path.is_absolute() or os.path.exists(path):  # what is no file is refused where it is read
        return path
    name = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    return data_file("configs", str(name))


def _set_all(cfg: CfgNode, pairs: Sequence[tuple[str, Any]], origin: str) -> set[str]:
    """Set what one file, or the command line, says; returns the names."""
    names = {name for name, _ in pairs}
    for name, value in pairs:
        _set(cfg, name, value, origin)
        replaced = [] if (key := find_key(name)) is None else [find_key(other) for other in key.replaces]
        for other in replaced:
            if other is not None and other.name not in names:
                _set(cfg, other.name, other.default, origin)
    return names


def _set(cfg: CfgNode, name: str, value: Any, origin: str) -> None:
    parent, _, leaf = name.rpartition(".")
    try:
        node: Any = get_key(cfg, parent) if parent else cfg
    except (KeyError, TypeError):  # no such section, or a section looked for in a value
        node = {}
    if not isinstance(node, CfgNode) or leaf not in node or isinstance(node[leaf], CfgNode):
        _refuse(cfg, name, value, origin)
        return
    key = find_key(name)
    if key is not None:
        node[leaf] = key.read(value, origin)
    else:
        default = node[leaf]
        node[leaf] = read_value(name, value, type(default), default, origin, f"give a value like {default!r}")


def _refuse(cfg: CfgNode, key: str, value: Any, origin: str) -> None:
    """Error for a key that is not ours; Detectron2's key at Detectron2's own default changes nothing and passes."""
    defaults = detectron2_defaults()
    if key in defaults:
        if _plain(value) == defaults[key]:
            return
        if key.startswith(_INERT_SECTIONS):
            logger.info("%s (set in %s) has no effect here: that part is off", key, origin)
            return
        raise UserError(
            f"{key}: {shown(value)} (set in {origin}) needs the detectron2 engine",
            hint=f"run with {parameter('engine', 'detectron2')}, or remove the key",
        )
    known = [name for name, _ in flat_config(cfg)]
    inside = [name for name in (*known, *defaults) if name.startswith(f"{key}.")]
    if inside:
        children = dict.fromkeys(name.removeprefix(f"{key}.").split(".")[0] for name in inside)
        raise UserError(
            f"{key} is a section and no key, it is {shown(value)} (set in {origin})",
            hint=f"set what is in it: {', '.join(f'{key}.{child}' for child in children)}",
        )
    near = nearest(key, known)
    raise _unknown(key, origin, hint=f"did you mean {near}?" if near else "`scaleprior config` lists them")


def _unknown(key: str, origin: str, *, hint: str) -> UnknownKeyError:
    name = key if len(key) <= _LONGEST_NAME else shown(key)
    return UnknownKeyError(f"unknown config key {name} (set in {origin})", hint=hint)


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, default=str))
    except (TypeError, ValueError):  # keys that JSON has not: no value of Detectron2's
        return None


@lru_cache(maxsize=1)
def detectron2_defaults() -> dict[str, Any]:
    """Detectron2's default config, flattened: recorded facts, so that they are known where it is not installed."""
    return json.loads((Path(__file__).parent / "detectron2_defaults.json").read_text(encoding="utf-8"))
