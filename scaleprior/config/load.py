"""Read a Detectron2-style YAML with overrides, remembering which keys were set on purpose.

The contract between weights and config needs that: a key that the config left alone follows the weights' card, a key
that somebody set and that contradicts the card is an error.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from scaleprior.config.arithmetic import ArithmeticLoader
from scaleprior.config.dotted import flat_config, get_key
from scaleprior.config.keys.key import read_value
from scaleprior.config.keys.table import find_key, nearest
from scaleprior.config.seed import run_seed
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = [
    "CONFIG_FILE",
    "OWN_FILE",
    "OWN_FILE_BEGINS",
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

_BASE = "_BASE_"
CONFIG_FILE, OWN_FILE = "config.yaml", "scaleprior.yaml"
"""What a run leaves of its config (``saved.py``): Detectron2's keys, and on top of them ours."""
OWN_FILE_BEGINS = f"{_BASE}: {CONFIG_FILE}\n"
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
    if path.is_file():
        return path
    known = sorted(str(p.relative_to(root)) for p in root.rglob("*.y*ml"))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:5]
    raise UserError(f"no file {name} in ScalePrior's {folder}/", hint=f"there are {', '.join(near)}")


def is_lazy_config(path: Path) -> bool:
    """Whether a file is a LazyConfig of Detectron2's: Python, or the YAML that is saved of one."""
    if path.suffix == ".py":
        return True
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return re.search(r"^\s+_target_:|[{,]\s*_target_:", path.read_text(encoding="utf-8"), re.MULTILINE) is not None
    return False


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
    lines = (line for file in files for line in _flatten_file(file, ()))
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
            raise UserError(f"{word} stands among the KEY VALUE words", hint=f"put {word} before the first of them")
    if len(overrides) % 2:
        raise UserError(f"overrides come in pairs KEY VALUE, got {len(overrides)} words: {' '.join(overrides)}")
    return [(key, _parse_value(text)) for key, text in zip(overrides[::2], overrides[1::2])]


def _parse_value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text)  # Detectron2's own reading; a bare word is a string
    except (ValueError, SyntaxError):
        return text


def file_keys(path: str | Path) -> dict[str, Any]:
    """The keys that a YAML file and its ``_BASE_`` files set, by dotted names, as YAML reads their values.

    Args:
        path: as :func:`load_config` takes it.

    Raises:
        UserError: a missing file, a circular base, or YAML that does not parse.
    """
    return {key: value for _, key, value in _flatten_file(_find(path), ())}


def _find(path: str | Path) -> Path:
    path = Path(path)
    if path.is_file():
        return path
    if path.is_absolute():
        raise UserError(f"config file not found: {path}", hint="check the path")
    name = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    return data_file("configs", str(name))


def _flatten_file(path: Path, children: tuple[Path, ...]) -> Iterator[tuple[str, str, Any]]:
    """(origin, dotted key, value) of a file, those of its bases first, as fvcore orders them."""
    path = _whole_of_run(path, children)
    if is_lazy_config(path):
        raise UserError(
            f"config {path} is a LazyConfig, and what runs here is identified by its YAML keys",
            hint="take a YAML; scaleprior.model_zoo.with_backbone puts a backbone under a LazyConfig, for Detectron2's "
            "own lazyconfig_train_net.py",
        )
    if path.resolve() in children:
        raise UserError(f"config {path} is its own {_BASE}", hint="break the circle")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=ArithmeticLoader)
    except FileNotFoundError as e:
        raise UserError(f"config file not found: {path} ({_BASE} of {children[-1]})", hint="correct the name") from e
    except UserError as e:
        raise UserError(f"config {path}: {e}") from e
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise UserError(f"config {path} cannot be read: {' '.join(str(e).split())}", hint="repair the YAML") from e
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"config {path} holds a {type(content).__name__}, not a mapping", hint="see configs/")
    bases = content.pop(_BASE, [])
    for base in [bases] if isinstance(bases, str) else bases:
        base_path = Path(base).expanduser()
        if not base_path.is_absolute():
            base_path = path.parent / base_path
        yield from _flatten_file(base_path, (*children, path.resolve()))
    for key, value in flat_config(content):
        yield str(path), key, _parse_value(value)


def _whole_of_run(path: Path, children: tuple[Path, ...]) -> Path:
    """The file that holds the whole config of a run, where ``path`` is the half of it that stock Detectron2 reads."""
    own = path.with_name(OWN_FILE)
    if path.name != CONFIG_FILE or own.resolve() in children:
        return path
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if own.read_text(encoding="utf-8").startswith(OWN_FILE_BEGINS):
            return own
    return path


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
            f"{key}: {value!r} (set in {origin}) needs the detectron2 engine",
            hint=f"run with {parameter('engine', 'detectron2')}, or remove the key",
        )
    known = [name for name, _ in flat_config(cfg)]
    inside = [name for name in (*known, *defaults) if name.startswith(f"{key}.")]
    if inside:
        children = dict.fromkeys(name.removeprefix(f"{key}.").split(".")[0] for name in inside)
        raise UserError(
            f"{key} is a section and no key, it is {value!r} (set in {origin})",
            hint=f"set what is in it: {', '.join(f'{key}.{child}' for child in children)}",
        )
    near = nearest(key, known)
    hint = f"did you mean {near}?" if near else "`scaleprior config` lists them"
    raise UnknownKeyError(f"unknown config key {key} (set in {origin})", hint=hint)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


@lru_cache(maxsize=1)
def detectron2_defaults() -> dict[str, Any]:
    """Detectron2's default config, flattened: recorded facts, so that they are known where it is not installed."""
    return json.loads((Path(__file__).parent / "detectron2_defaults.json").read_text(encoding="utf-8"))
