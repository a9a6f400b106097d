"""What the synthetic world looks like: the knobs, and the label space they imply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from scaleprior.corpus.label_space import LabelSpace
from scaleprior.errors import UserError
from scaleprior.files import is_number
from scaleprior.wording import shown

__all__ = ["SCHEMES", "SHAPE_FAMILIES", "TEXTURE_FAMILIES", "WorldSpec"]

SHAPE_FAMILIES: Mapping[str, str] = {
    "disk": "round",
    "ring": "round",
    "heart": "round",
    "crescent": "round",
    "flower": "round",
    "drop": "round",
    "square": "angular",
    "triangle": "angular",
    "star": "angular",
    "cross": "angular",
    "hexagon": "angular",
    "arrow": "angular",
}
"""Shapes that can be drawn, and the family above each in the hierarchy."""

TEXTURE_FAMILIES: Mapping[str, str] = {
    "stripes": "lined",
    "waves": "lined",
    "grid": "lined",
    "rings": "lined",
    "checks": "patched",
    "dots": "patched",
    "bricks": "patched",
    "speckle": "patched",
}
"""Textures that can be drawn, and the family above each."""

SCHEMES: Mapping[str, tuple[float, float, float]] = {
    "warm": (0.97, 1.14, 0.75),
    "green": (0.22, 0.42, 0.6),
    "cool": (0.5, 0.72, 0.7),
    "violet": (0.76, 0.92, 0.6),
}
"""Colour schemes: lowest and highest hue in turns (above 1 wraps around), and mean saturation."""


@dataclass(frozen=True)
class WorldSpec:
    """Knobs of the synthetic world. Lengths are shares of the image's side, so a scene looks alike at any size.

    Attributes:
        shapes: names from ``SHAPE_FAMILIES``.
        textures: names from ``TEXTURE_FAMILIES``. A leaf class is a pair of a shape and a texture and has both above.
        schemes: names from ``SCHEMES``; each is a further label of the objects in its colours. Empty: objects take
            any colour and colours are no labels.
        object_size: smallest and largest diameter of the first object of a corpus image.
        second_object: probability of a second, smaller object in a corpus image; the image then has both labels.
        rotation: largest rotation to either side, degrees; 180 is any.
        stretch: largest factor between an object's axes, at least 1.
        texture_period: smallest and largest period of a texture, as a share of the object's diameter.
        contrast: smallest difference in brightness (HSV value) between a texture's two colours, in [0, 1]; differences
            above 0.75 are drawn as 0.75.
        background_contrast: largest such difference in the background, in [0, 1].
        distractors: mean number of unlabelled blobs that wear the same textures.
        lines: mean number of thin lines behind the objects.
        occluders: mean number of thin lines across the objects.
        illumination: largest relative change of brightness across the image, in [0, 1].
        noise: largest standard deviation of the pixel noise, in grey levels of 255; at most 32.
        blur: probability that the image is blurred a little.
        detection_objects: fewest and most objects of a detection scene.
        detection_size: smallest and largest diameter in a detection scene, as a share of the canvas.
        detection_classes: what is detected: "shape", "texture" or "leaf".
        min_visible: share of an object's pixels that nothing may cover, in (0, 1].
    """

    shapes: tuple[str, ...] = ("disk", "ring", "square", "triangle", "star", "cross")
    textures: tuple[str, ...] = ("stripes", "waves", "checks", "dots")
    schemes: tuple[str, ...] = ("warm", "green", "cool", "violet")
    object_size: tuple[float, float] = (0.6, 0.95)
    second_object: float = 0.2
    rotation: float = 30.0
    stretch: float = 1.2
    texture_period: tuple[float, float] = (0.2, 0.34)
    contrast: float = 0.4
    background_contrast: float = 0.25
    distractors: float = 0.4
    lines: float = 1.0
    occluders: float = 0.3
    illumination: float = 0.5
    noise: float = 8.0
    blur: float = 0.2
    detection_objects: tuple[int, int] = (2, 5)
    detection_size: tuple[float, float] = (0.18, 0.42)
    detection_classes: str = "shape"
    min_visible: float = 0.7

    def __post_init__(self) -> None:
        for field in fields(self):
            if not _is_like(value := getattr(self, field.name), field.default):
                raise UserError(f"world {field.name} {shown(value)}", hint=f"the default is {field.default!r}")
        for what, names, known in (
            ("shapes", self.shapes, SHAPE_FAMILIES),
            ("textures", self.textures, TEXTURE_FAMILIES),
            ("schemes", self.schemes, SCHEMES),
        ):
            unknown = sorted(set(names) - set(known))
            if unknown or len(set(names)) < len(names) or (not names and what != "schemes"):
                raise UserError(f"world {what} {shown(names)}", hint=f"choose different names from {', '.join(known)}")
        for what in ("object_size", "texture_period", "detection_objects", "detection_size"):
            low, high = getattr(self, what)
            if not 0 < low <= high:
                raise UserError(f"world {what} {(low, high)}", hint="give a smallest and a largest value above 0")
        for what in ("second_object", "contrast", "background_contrast", "illumination", "blur"):
            if not 0 <= getattr(self, what) <= 1:
                raise UserError(f"world {what} {getattr(self, what)}", hint="give a value from 0 to 1")
        for what in ("rotation", "distractors", "lines", "occluders"):
            if not getattr(self, what) >= 0:
                raise UserError(f"world {what} {getattr(self, what)}", hint="give a value of at least 0")
        if not 0 <= self.noise <= 32:
            raise UserError(f"world noise {self.noise}", hint="give grey levels from 0 to 32")
        if self.stretch < 1 or not 0 < self.min_visible <= 1:
            raise UserError(
                f"world stretch {self.stretch}, min_visible {self.min_visible}",
                hint="stretch >= 1, min_visible in (0, 1]",
            )
        if self.detection_classes not in ("shape", "texture", "leaf"):
            raise UserError(f"world detection_classes {self.detection_classes!r}", hint="use shape, texture or leaf")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WorldSpec:
        """From a mapping such as a study's YAML; lists become tuples.

        Raises:
            UserError: an unknown knob, or a value out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(map(shown, set(data) - known))
        if unknown:
            raise UserError(f"unknown world setting {', '.join(unknown)}", hint=f"known: {sorted(known)}")
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in data.items()}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """For JSON and for hashing; ``from_dict`` reads it back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def leaf(self, shape: int, texture: int) -> str:
        """Id of the leaf class of a shape and a texture, given their places in the spec."""
        return f"{self.shapes[shape]}/{self.textures[texture]}"

    def label_space(self) -> LabelSpace:
        """Families above shapes and textures above their pairs, so that a leaf has two parents; and colour schemes."""
        nodes: list[tuple[str, str, tuple[str, ...]]] = []
        for kind, names, families in (
            ("shape", self.shapes, SHAPE_FAMILIES),
            ("texture", self.textures, TEXTURE_FAMILIES),
        ):
            used = dict.fromkeys(families[name] for name in names)
            nodes += [(family, family, ()) for family in used]
            nodes += [(f"{kind}:{name}", name, (families[name],)) for name in names]
        if self.schemes:
            nodes.append(("scheme", "colour scheme", ()))
            nodes += [(f"scheme:{name}", name, ("scheme",)) for name in self.schemes]
        for shape in self.shapes:
            nodes += [
                (f"{shape}/{texture}", f"{shape} with {texture}", (f"shape:{shape}", f"texture:{texture}"))
                for texture in self.textures
            ]
        return LabelSpace(nodes, where="synthetic world")


def _is_like(value: Any, default: Any) -> bool:
    """Whether a setting is of its default's kind: a text, a number, some names, or two numbers."""
    if isinstance(default, str):
        return isinstance(value, str)
    if not isinstance(default, tuple):
        return is_number(value)
    if not isinstance(value, tuple) or isinstance(default[0], str):
        return isinstance(value, tuple) and all(isinstance(name, str) for name in value)
    return len(value) == len(default) and all(is_number(v) and isinstance(v, (int, type(default[0]))) for v in value)
