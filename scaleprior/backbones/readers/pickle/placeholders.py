"""What becomes of the objects in a pickle that are neither tensors nor plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scaleprior.backbones.readers.limits import Budget, Limits, RefusedFileError
from scaleprior.backbones.readers.pickle.names import TensorRecord, as_text
from scaleprior.backbones.readers.pickle.stand_ins import Instance
from scaleprior.wording import shown

__all__ = ["SETTINGS", "ModuleParts", "Placeholder", "attributes", "module_parts", "module_state"]

_SCRIPTED = "__torch__."
"""With this the names of TorchScript's classes begin; parameters and submodules are plain attributes there."""
_DEPTH = 64  # modules within modules
_LARGEST = 1 << 20  # of a setting
SETTINGS = ("eps", "num_groups", "stride", "dilation", "kernel_size")
"""Attributes of modules that change what a network computes and leave no trace in its tensors."""


@dataclass(frozen=True)
class Placeholder:
    """Stands for an object of a pickle that is neither a tensor nor plain data; its class was never imported.

    Attributes:
        name: of its class, or of the function that would have made it.
        content: what the file keeps of it: a dict of its attributes or of its entries as a dict, a list of its members
            or of the arguments that make it, any other state as it is. Of a ``torch.nn.Module`` (also a scripted one):
            tensors under the names that ``state_dict()`` gives them. None: there is nothing, or it lies too deep.
        modules: of a pickled ``torch.nn.Module`` with tensors: path of each module -> its class, as ``class``, and
            those of ``SETTINGS`` that it has, where they are numbers or tuples of numbers.
    """

    name: str
    content: Any = None
    modules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass
class ModuleParts:
    """A module's tensors under the names of its ``state_dict()``, and ``modules`` as in :class:`Placeholder`."""

    tensors: dict[str, TensorRecord] = field(default_factory=dict)
    modules: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def attributes(state: Any) -> Any:
    """A state as a dict of attributes if it is one, with or without ``__slots__``; else as it came."""
    if isinstance(state, tuple) and len(state) == 2 and all(part is None or isinstance(part, dict) for part in state):
        return {**(state[0] or {}), **(state[1] or {})}
    return state


def module_state(instance: Instance) -> Mapping[Any, Any] | None:
    """The attributes of a ``torch.nn.Module``, pickled or scripted; None if this is another object."""
    for state in (attributes(instance.state), *instance.arguments):  # torch.fx hands a module's over as an argument
        if isinstance(state, dict) and (
            instance.name.startswith(_SCRIPTED)
            or all(isinstance(state.get(part), dict) for part in ("_parameters", "_buffers", "_modules"))
        ):
            return state
    return None


def module_parts(instance: Instance, limits: Limits, visits: Budget) -> ModuleParts:
    """What a module and those within it hold.

    Args:
        visits: of modules, and entries of theirs, in the whole file: one may hold the other in several places.

    Raises:
        RefusedFileError: more modules and tensors than the limits, names that are longer.
    """
    found = ModuleParts()

    def walk(module: Instance, prefix: str, open_: tuple[Instance, ...]) -> None:
        state = module_state(module)
        if state is None or module in open_ or len(open_) > _DEPTH:
            return
        visits.spend(_extent(module, state))
        found.modules[prefix.removesuffix(".")] = {"class": module.name, **_settings(state)}
        for kind, name, value in _parts(state, scripted=module.name.startswith(_SCRIPTED)):
            limits.check_keys(len(found.tensors) + len(found.modules), "a pickled model")
            path = prefix + name[: limits.name_length + 1]  # a longer one is not copied for each place it is in
            if len(path) > limits.name_length:
                raise RefusedFileError("path", f"a tensor of a pickled model is named {shown(path)}")
            if kind is TensorRecord:
                found.tensors[path] = value
            else:
                walk(value, f"{path}.", (*open_, module))

    walk(instance, "", ())
    return found


def _extent(module: Instance, state: Mapping[Any, Any]) -> int:
    """How much of a module is looked at."""
    parts = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
    whole = state is not module.state or module.name.startswith(_SCRIPTED)
    held = [state] if whole else [state.get(part) for part in parts]
    return 1 + sum(len(part) for part in held if isinstance(part, (dict, set, list)))


def _settings(state: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: value for name in SETTINGS if _is_setting(value := state.get(name))}


def _is_setting(value: Any) -> bool:
    numbers: tuple[Any, ...] = value if isinstance(value, tuple) and 0 < len(value) <= 3 else (value,)
    return all(type(number) in (int, float) and abs(number) < _LARGEST for number in numbers)


def _parts(state: Mapping[Any, Any], *, scripted: bool) -> Iterator[tuple[type, str, Any]]:
    """(kind, name, value) of a module's own tensors, then of its submodules."""
    if scripted:
        tensors = modules = state
        transient: Any = ()
    else:
        tensors, modules = {**state["_parameters"], **state["_buffers"]}, state["_modules"]
        transient = state.get("_non_persistent_buffers_set") or ()
        transient = {as_text(name) for name in transient} if isinstance(transient, (set, list)) else ()
    for kind, values in ((TensorRecord, tensors), (Instance, modules)):
        for name, value in values.items():
            name = as_text(name)
            if isinstance(name, str) and isinstance(value, kind) and not (kind is TensorRecord and name in transient):
                yield kind, name, value
