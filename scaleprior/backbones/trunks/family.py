"""What a family of trunks answers for, and where families are found: one class, in one file, says what is special.

B images, H x W pixels, C_i channels of map i. Every trunk gives the maps res2 .. res5 with strides 4 .. 32. Neither
this module nor a family's file imports torch at its top: a card is read without it.

Built-in families are those of this folder. Others announce themselves in the entry-point group ``scaleprior.trunks``
(each entry point is a callable without arguments that returns a :class:`TrunkFamily`), or call :func:`register_family`.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from scaleprior.backbones.trunks.layout import Layout, Relative
from scaleprior.backbones.trunks.model import MAPS, Model, check_family, fitting_norms
from scaleprior.backbones.trunks.published import KnownFacts
from scaleprior.errors import UserError
from scaleprior.plugins import announced, load_announced, unknown_name
from scaleprior.wording import shown

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

__all__ = [
    "TRUNK_GROUP", "Clues", "Shapes", "TimmSpec", "TrunkFamily", "TrunkSpec", "families", "get_family", "known_models",
    "register_family",
]  # fmt: skip

logger = logging.getLogger(__name__)

TRUNK_GROUP = "scaleprior.trunks"
"""Entry points of installed packages that add families."""
_WHAT = "family of trunks"
_HERE = __name__.rpartition(".")[0]
_BUILTIN = {"resnet": "resnet.family:ResNets", "bit": "bit:BiT", "clip": "clip:CLIP", "convnext": "convnext:ConvNeXt"}
_REGISTERED: dict[str, TrunkFamily] = {}

Shapes = Mapping[str, tuple[int, ...]]


@runtime_checkable
class TrunkSpec(Protocol):
    """Which trunk: all that fixes names and shapes of its parameters. Frozen, hashable, equal to its like."""

    @property
    def family(self) -> TrunkFamily:
        """Who answers for it."""
        ...

    @property
    def name(self) -> str:
        """Short, for tables and files."""
        ...

    @property
    def norm(self) -> str:
        """Kind of norm it is trained with: BN, FrozenBN, GN or LN."""
        ...

    @property
    def depth(self) -> int:
        """Layers with weights on the longest path, as ResNets are counted; for tables."""
        ...

    @property
    def stride_in_1x1(self) -> bool:
        """Stages downsample in the first 1x1 convolution, which only bottleneck ResNets can."""
        ...

    @property
    def out_channels(self) -> dict[str, int]:
        """Channels of the maps; a ResNet's stem is in it, too."""
        ...

    @property
    def timm_model(self) -> str | None:
        """Value of MODEL.TIMM.MODEL that names it; None = none does."""
        ...

    def to_cfg_keys(self) -> dict[str, Any] | None:
        """The keys of MODEL.RESNETS that describe it, without the norm; None = none do."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for a card's ``arch``."""
        ...


@dataclass(frozen=True)
class Clues:
    """What is known of a foreign file besides the canonical names and the shapes of its tensors.

    Attributes:
        where: the file, for messages.
        layout: of its names.
        norm: as the user says, of norms that have no running statistics.
        depth: as the user says, of a ResNet some of whose stages are absent.
        carried: the architecture in a card that travels with the tensors.
        names: of all tensors in it, in the layout or as they are written.
    """

    where: str
    layout: Layout
    norm: str | None = None
    depth: int | None = None
    carried: TrunkSpec | None = None
    names: Collection[str] = ()


class TrunkFamily:
    """A family of trunks. The defaults are those of timm's networks with a ``stem`` and ``stages``, known by name.

    Attributes:
        name: in catalogues, and in cards of specs that no name tells.
        models: value of MODEL.TIMM.MODEL -> what that is.
        norm: kind of norm that ``models`` are trained with: BN, FrozenBN, GN or LN.
        eps: what the norms add to the variance unless a card says otherwise; Detectron2's and torchvision's, too.
        layouts: the foreign files that are read.
        named: specs are :class:`TimmSpec`.
        pads: sides of a batch must be multiples of the last stride; otherwise any size will do.
        least_side: pixels that a side must have for res5 to be there.
    """

    name: ClassVar[str]
    models: ClassVar[Mapping[str, Model]] = {}
    norm: ClassVar[str] = "BN"
    eps: ClassVar[float] = 1e-5
    layouts: ClassVar[tuple[Layout, ...]] = ()
    named: ClassVar[bool] = True
    pads: ClassVar[bool] = True
    least_side: ClassVar[int] = 1

    # Which trunk it is

    def spec_of_model(self, model: str, norm: str) -> TrunkSpec:
        """The trunk that MODEL.TIMM.MODEL names, with norms that MODEL.RESNETS.NORM can make of its own.

        Raises:
            UserError: a norm that does not fit.
        """
        fitting = fitting_norms(self.norm)
        if norm not in fitting:
            raise UserError(
                f"MODEL.RESNETS.NORM is {norm!r} with MODEL.TIMM.MODEL {model!r}", hint=f"it takes {', '.join(fitting)}"
            )
        return TimmSpec(model)

    def spec_from_dict(self, value: Mapping[str, Any]) -> TrunkSpec:
        """What ``to_dict`` of an own spec class wrote. Raises UserError on fields that this version does not know."""
        raise UserError(f"architecture {shown(dict(value))} is not known to this version", hint="update it")

    def infer(self, shapes: Shapes, clues: Clues) -> TrunkSpec:
        """The trunk that tensors in canonical names are of.

        Raises:
            UserError: no trunk of the family has these.
        """
        counts, stem = [0, 0, 0, 0], 0
        for name, shape in shapes.items():
            if match := re.match(r"stages\.([0-3])\.(?:blocks\.)?(\d+)\.", name):
                counts[int(match[1])] = max(counts[int(match[1])], int(match[2]) + 1)
            elif self.part_of(name) == "stem" and len(shape) == 4:
                stem = shape[0]
        for model, facts in self.models.items():
            if facts.blocks == tuple(counts) and facts.stem == stem:
                return TimmSpec(model)
        said = f"{clues.where}: blocks {counts} and a stem of {stem} fit no known trunk"
        raise UserError(said, hint=f"known: {', '.join(self.models)}")

    def published(self, spec: Any, clues: Clues) -> KnownFacts | None:
        """What their publisher states of these weights, where the file proves they are his; spelling proves none."""
        return None

    def unsaid(self, spec: Any) -> tuple[str, ...]:
        """Which of "stride_in_1x1" and "norm_eps" (BatchNorm differs between libraries) names and shapes leave open."""
        return ("norm_eps",) if spec.norm == "BN" else ()

    def refine(self, spec: Any, *, stride_in_1x1: bool) -> TrunkSpec:
        """The spec with what shapes could not tell."""
        return spec

    def complete(self, tensors: dict[str, np.ndarray], spec: Any) -> str | None:
        """Add what the layout leaves out because it is always the same; returns a sentence on it, if anything was."""
        return None

    def refusal(self, shapes: Shapes) -> Relative | None:
        """The relative whose tensors, by the file's and by canonical names, these are; None: no known one."""
        return None

    # Its names

    def canonical_names(self, own: Sequence[str]) -> dict[str, str]:
        """Names of the body's tensors -> those in canonical files, with BN's counters in the same style."""
        return {name: name for name in own}

    def shapes(self, spec: Any) -> Shapes | None:
        """Names and shapes of a canonical file's tensors; None = build the trunk without memory and look."""
        return None

    def part_of(self, name: str) -> str:
        """The part that a canonical tensor belongs to: "stem", a stage's name, or another for what is behind them."""
        return ".".join(name.split(".")[: 2 if name.startswith("stages.") else 1])

    def label(self, depth: int, width: int) -> str:
        """How tables call the trunk of a catalogue's entry: R-50, BiT-R50x1, ..."""
        return f"{self.name}-{depth}x{width}" if width > 1 else f"{self.name}-{depth}"

    def spec_of_entry(self, depth: int, model: str | None, parts: Mapping[str, Any]) -> TrunkSpec | None:
        """The trunk of a catalogue's entry; None where only its file tells. UserError for a ResNet's ``parts``."""
        if parts:
            raise UserError(f"{self.name} has no {', '.join(parts)}", hint="its name tells the whole trunk")
        return TimmSpec(model) if model else None

    def exported(self, kind: str, tensors: Mapping[str, Tensor], spec: Any, name: str) -> dict[str, Tensor]:
        """The tensors as the program ``kind`` ("detectron2" or "torchvision") names them.

        Raises:
            UserError: that program has no place for such a trunk.
        """
        raise UserError(
            f"{name} is timm's {spec.name}, which no ResNet of Detectron2 or torchvision can hold",
            hint="use the .safetensors itself as MODEL.WEIGHTS, with a feature pyramid (FPN)",
        )

    # Its module; ``body`` is what ``build`` gave, or (in Detectron2) a module with the same children and parameters

    def build(self, spec: Any) -> nn.Module:
        """The body with fresh weights, without a classifier."""
        import timm

        return timm.create_model(spec.model, pretrained=False, num_classes=0)

    def stem(self, body: Any) -> Callable[[Tensor], Tensor]:
        """What takes normalised pixels [B, 3, H, W] to the first stage."""
        return body.stem

    def stem_parts(self, body: Any) -> list[nn.Module]:
        """What freezing one stage freezes."""
        return [body.stem]

    def stages(self, body: Any) -> list[nn.Module]:
        """The stages behind res2 .. res5; fewer after :meth:`drop_after`."""
        return list(body.stages)

    def last_norm(self, body: Any) -> nn.Module | None:
        """What res5 passes before anybody sees it: the norm at the end of a pre-activation network."""
        return None

    def next_norms(self, body: Any) -> Mapping[str, nn.Module]:
        """Map -> the norm that the network itself sends it through next, where detectors should see it behind that."""
        return {}

    def conv_norms(self, body: Any) -> Iterator[tuple[nn.Module, nn.Module]]:
        """The convolutions whose output goes into one norm and nowhere else, each with that norm.

        A detector lets such a convolution do the work of a frozen norm. Names cannot tell: in pre-activation networks
        ``bn1`` stands before ``conv1``.
        """
        return iter(())

    def pool(self, body: Any, res5: Tensor) -> Tensor:
        """The vectors [B, C5] that a linear head reads in pretraining, from res5 [B, C5, H/32, W/32]."""
        return res5.mean(dim=(2, 3))

    def drop_after(self, body: Any, count: int) -> None:
        """Remove the stages behind the first ``count`` (1 to 3) in place, but not the norms that their maps pass."""
        body.stages = body.stages[:count]


@dataclass(frozen=True)
class TimmSpec:
    """A trunk that its name tells: a value of MODEL.TIMM.MODEL.

    Attributes:
        model: timm's model name, or that of a family from elsewhere.
    """

    model: str

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or self.model not in known_models(named=True):
            raise UserError(
                f"architecture {shown(self.model)} of timm is not known here",
                hint=f"known: {', '.join(known_models(named=True))}",
            )

    @property
    def family(self) -> TrunkFamily:
        """The one that has this model."""
        return known_models()[self.model]

    @property
    def facts(self) -> Model:
        """The family's row on it."""
        return self.family.models[self.model]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    @property
    def timm_model(self) -> str:
        """The model's name."""
        return self.model

    @property
    def norm(self) -> str:
        """The family's."""
        return self.family.norm

    @property
    def depth(self) -> int:
        """Layers, see ``Model``."""
        return self.facts.depth

    @property
    def stride_in_1x1(self) -> bool:
        """False: only ResNets do."""
        return False

    @property
    def out_channels(self) -> dict[str, int]:
        """``{"res2": 256, ...}``."""
        return dict(zip(MAPS, self.facts.channels))

    def to_cfg_keys(self) -> None:
        """None: MODEL.RESNETS cannot describe it."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``spec_from_dict`` undoes it."""
        return {"family": "timm", "model": self.model}


def register_family(family: TrunkFamily) -> TrunkFamily:
    """Make a family known in this process; returns it.

    Raises:
        UserError: it lacks a name, models or a known norm; its name or one of its models' is taken.
    """
    check_family(family, TrunkFamily)
    taken = {model for other in families().values() for model in other.models if other.name != family.name}
    if family.name in families() and families()[family.name] is not family:
        raise UserError(f"there is a family of trunks {family.name!r} already", hint="choose another name")
    if both := sorted(taken.intersection(family.models)):
        raise UserError(f"family {family.name!r} has models that others have: {', '.join(both)}", hint="rename them")
    _REGISTERED[family.name] = family
    return family


@functools.cache
def _found() -> dict[str, TrunkFamily]:
    """The built-in families and those of installed packages, by name."""
    built_in = (metadata.EntryPoint(name, f"{_HERE}.{at}", TRUNK_GROUP) for name, at in _BUILTIN.items())
    found: dict[str, TrunkFamily] = {point.name: load_announced(point, _WHAT)() for point in built_in}
    for point in announced(TRUNK_GROUP):
        try:
            family = load_announced(point, _WHAT)()
            check_family(family, TrunkFamily)
        except Exception as e:
            # Somebody else's package is broken: that must not cost anybody the trunks that are whole.
            logger.warning("trunks of %s (%s) are left out: %s", point.name, point.value, e)
            continue
        taken = {model for other in found.values() for model in other.models}
        if family.name in found or taken.intersection(family.models):
            logger.warning("trunks of %s (%s) are left out: their names are taken", point.name, point.value)
            continue
        found[family.name] = family
    return found


def families() -> dict[str, TrunkFamily]:
    """Every family that is known here, by name; the built-in ones first."""
    return {**_found(), **_REGISTERED}


def get_family(name: str) -> TrunkFamily:
    """Raises UserError for a family that nobody here announces."""
    if name not in families():
        raise unknown_name(_WHAT, name, list(families()))
    return families()[name]


def known_models(*, named: bool = False) -> dict[str, TrunkFamily]:
    """Value of MODEL.TIMM.MODEL -> its family.

    Args:
        named: only those that are told by the name alone.
    """
    return {model: family for family in families().values() if family.named or not named for model in family.models}
