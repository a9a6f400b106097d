"""Draws scenes of the synthetic world in integer arithmetic, about half a millisecond for 64 x 64 pixels.

Every surface is a tile (``tiles``) sampled through a 16.16 fixed-point affine map and mixed by look-up tables;
floats only place things. Images are RGBX while they are drawn, because four-byte pixels come from one look-up.
"""

from __future__ import annotations

import colorsys
import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from scaleprior.corpus.hashing import hash64
from scaleprior.corpus.world.spec import SCHEMES, WorldSpec
from scaleprior.corpus.world.surfaces import mixing, pixels, ramp, sample
from scaleprior.corpus.world.tiles import (
    BLOBS,
    SHAPE_EXTENT,
    SHAPE_TILE,
    TEXTURE_TILE,
    shape_tile,
    texture_tile,
)

__all__ = ["Draws", "Placed", "Renderer"]

_BANK = 512  # side of the stored noise, pixels
_MIN_PERIOD = 4.0  # pixels; a finer texture would alias


class Draws:
    """Uniform random numbers of one image: they depend on (seed, split, number) and nothing else."""

    def __init__(self, seed: int, split: str, number: int) -> None:
        key = np.array([seed & 0xFFFFFFFFFFFFFFFF, _split_hash(split)], dtype=np.uint64)
        counter = np.array([0, 0, number, 0], dtype=np.uint64)  # images are 2**128 blocks apart
        self._generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
        self._waiting: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        if not self._waiting:
            self._waiting = self._generator.random(128).tolist()
        return low + (high - low) * self._waiting.pop()

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self.uniform() * count)

    def count(self, mean: float) -> int:
        """A whole number with this mean: 0 to twice its whole part, equally likely, and one more for its fraction."""
        whole = int(mean)
        return self.below(2 * whole + 1) + (self.uniform() < mean - whole)


@functools.lru_cache(maxsize=64)
def _split_hash(split: str) -> int:
    return int(hash64([split])[0])


@dataclass(frozen=True)
class Placed:
    """An object of a scene: places in the spec, and geometry in pixels.

    Attributes:
        shape: index into the spec's shapes; from ``len(shapes)`` on a blob, which has no label.
        texture: index into the textures.
        scheme: index into the schemes, -1 when the world has none.
        x: centre; y: centre; radius: half the diameter.
    """

    shape: int
    texture: int
    scheme: int
    x: float
    y: float
    radius: float


@dataclass
class _Footprint:
    """Where an object falls: a window of the canvas and the shape's levels there."""

    rows: slice
    columns: slice
    level: np.ndarray  # uint8 [h, w], 128 on the outline
    cosine: float
    sine: float

    @property
    def mask(self) -> np.ndarray:
        return self.level >= 128


class Renderer:
    """Draws the scenes of a spec.

    Args:
        spec: the knobs.
        seed: of the stored noise.
    """

    def __init__(self, spec: WorldSpec, seed: int) -> None:
        self.spec = spec
        names = [*spec.shapes, *(f"blob{k}" for k in range(BLOBS))]
        self._shapes = [shape_tile(name).ravel() for name in names]
        self._textures = [texture_tile(name).ravel() for name in spec.textures]
        bank = np.random.Generator(np.random.Philox(seed)).standard_normal((_BANK, _BANK, 4))
        self._bank = np.clip(np.rint(bank * 32), -127, 127).astype(np.int16)  # standard deviation 32

    def draw(self, draws: Draws, size: int, *, detection: bool) -> tuple[np.ndarray, list[tuple[Placed, np.ndarray]]]:
        """Draw one scene.

        Args:
            draws: the image's random numbers.
            size: pixels a side.
            detection: many small objects rather than one or two large ones.

        Returns:
            uint8 [size, size, 3] RGB, and each labelled object with its visible pixels, bool [size, size].
        """
        spec = self.spec
        canvas = self._background(draws, size)
        for _ in range(draws.count(spec.lines)):
            self._line(canvas, draws, size)
        self._blobs(canvas, draws, size, detection)
        objects = self._objects(canvas, draws, size, detection)
        for _ in range(draws.count(spec.occluders)):
            self._line(canvas, draws, size)
        return self._develop(canvas, draws, size), objects

    def _background(self, draws: Draws, size: int) -> np.ndarray:
        """A faint texture in two muted colours: uint8 [size, size, 4]."""
        texture = self._textures[draws.below(len(self._textures))]
        period = size * draws.uniform(0.1, 0.5)
        turn = draws.uniform(0, 2 * math.pi)
        level = sample(
            texture,
            TEXTURE_TILE,
            TEXTURE_TILE / max(period, _MIN_PERIOD),
            math.cos(turn),
            math.sin(turn),
            np.arange(size, dtype=np.int32),
            np.arange(size, dtype=np.int32),
            draws.uniform(0, 64),
            draws.uniform(0, 64),
        )
        low, high = self._colours(draws, -1, draws.uniform(0, self.spec.background_contrast), muted=0.6)
        return pixels(ramp(low, high), level).astype(np.uint8)

    def _blobs(self, canvas: np.ndarray, draws: Draws, size: int, detection: bool) -> None:
        low, high = self.spec.detection_size if detection else self.spec.object_size
        for _ in range(draws.count(self.spec.distractors)):
            radius = 0.5 * size * draws.uniform(0.7 * low, 0.7 * high)
            blob = self._place(draws, size, len(self.spec.shapes) + draws.below(BLOBS), radius, margin=0.0)
            footprint = self._footprint(blob, draws, size)
            self._paint(canvas, blob, footprint, draws)

    def _objects(self, canvas: np.ndarray, draws: Draws, size: int, detection: bool) -> list[tuple[Placed, np.ndarray]]:
        spec = self.spec
        if detection:
            fewest, most = spec.detection_objects
            low, high = spec.detection_size
            radii = [
                0.5 * size * low * (high / low) ** draws.uniform()
                for _ in range(fewest + draws.below(most - fewest + 1))
            ]
        else:
            radii = [0.5 * size * draws.uniform(*spec.object_size)]
            if draws.uniform() < spec.second_object:
                radii.append(radii[0] * draws.uniform(0.45, 0.7))
        painted: list[tuple[Placed, np.ndarray]] = []
        areas: list[int] = []
        for radius in sorted(radii, reverse=True):  # small ones in front, where they stay visible
            for _ in range(12):
                candidate = self._place(draws, size, draws.below(len(spec.shapes)), radius, margin=0.9)
                footprint = self._footprint(candidate, draws, size)
                window = (footprint.rows, footprint.columns)
                hidden = [int(np.count_nonzero(mask[window] & footprint.mask)) for _, mask in painted]
                seen = [int(np.count_nonzero(mask)) for _, mask in painted]
                if all(s - h >= spec.min_visible * a for s, h, a in zip(seen, hidden, areas)):
                    self._paint(canvas, candidate, footprint, draws)
                    for _, mask in painted:
                        mask[window] &= ~footprint.mask
                    mask = np.zeros((size, size), dtype=bool)
                    mask[window] = footprint.mask
                    painted.append((candidate, mask))
                    areas.append(int(np.count_nonzero(mask)))
                    break
        return painted

    def _place(self, draws: Draws, size: int, shape: int, radius: float, *, margin: float) -> Placed:
        spec = self.spec
        inset = min(margin * radius, 0.5 * size)
        return Placed(
            shape=shape,
            texture=draws.below(len(spec.textures)),
            scheme=draws.below(len(spec.schemes)) if spec.schemes else -1,
            x=draws.uniform(inset, size - inset),
            y=draws.uniform(inset, size - inset),
            radius=radius,
        )

    def _footprint(self, placed: Placed, draws: Draws, size: int) -> _Footprint:
        turn = math.radians(draws.uniform(-self.spec.rotation, self.spec.rotation))
        squeeze = self.spec.stretch ** draws.uniform(0, 1)
        reach = placed.radius + 2
        left, right = max(0, math.floor(placed.x - reach)), min(size, math.ceil(placed.x + reach) + 1)
        top, bottom = max(0, math.floor(placed.y - reach)), min(size, math.ceil(placed.y + reach) + 1)
        cosine, sine = math.cos(turn), math.sin(turn)
        texels = SHAPE_TILE / (2 * SHAPE_EXTENT) / placed.radius  # per pixel
        centre = SHAPE_TILE / 2
        level = sample(
            self._shapes[placed.shape],
            SHAPE_TILE,
            texels,
            cosine,
            sine,
            np.arange(left, right, dtype=np.int32),
            np.arange(top, bottom, dtype=np.int32),
            centre,
            centre,
            origin=(placed.x, placed.y),
            squeeze=squeeze,
        )
        return _Footprint(slice(top, bottom), slice(left, right), level, cosine, sine)

    def _paint(self, canvas: np.ndarray, placed: Placed, footprint: _Footprint, draws: Draws) -> None:
        """Mix the object's texture over the canvas, darker towards its rim, with a soft shadow around it."""
        spec = self.spec
        low, high = self._colours(draws, placed.scheme, draws.uniform(spec.contrast, 1.0), muted=1.0)
        period = max(2 * placed.radius * draws.uniform(*spec.texture_period), _MIN_PERIOD)
        columns = np.arange(footprint.columns.start, footprint.columns.stop, dtype=np.int32)
        rows = np.arange(footprint.rows.start, footprint.rows.stop, dtype=np.int32)
        level = sample(
            self._textures[placed.texture],
            TEXTURE_TILE,
            TEXTURE_TILE / period,
            footprint.cosine,
            footprint.sine,
            columns,
            rows,
            draws.uniform(0, 64),
            draws.uniform(0, 64),
            origin=(placed.x, placed.y),
        )
        surface = pixels(ramp(low, high), level)
        behind, front = mixing(placed.radius, draws.uniform(0, 0.5), draws.uniform(0, 0.5))
        surface *= pixels(front, footprint.level)
        window = canvas[footprint.rows, footprint.columns]
        mixed = pixels(behind, footprint.level)
        mixed *= window
        mixed += surface
        mixed >>= 8
        window[...] = mixed

    def _line(self, canvas: np.ndarray, draws: Draws, size: int) -> None:
        colour, _ = self._colours(draws, -1, 0.0, muted=0.8)
        ends = [int(draws.uniform(-0.2, 1.2) * size * 16) for _ in range(4)]
        width = max(1, round(size * draws.uniform(0.01, 0.04)))
        cv2.line(canvas, tuple(ends[:2]), tuple(ends[2:]), (*colour, 255), width, cv2.LINE_AA, 4)

    def _colours(
        self, draws: Draws, scheme: int, contrast: float, *, muted: float
    ) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """A dark and a light colour whose brightness (HSV value) differs by ``contrast``; scheme -1 is any hue."""
        low, high, saturation = (0.0, 1.0, 0.5) if scheme < 0 else SCHEMES[self.spec.schemes[scheme]]
        hue = draws.uniform(low, high)
        other = draws.uniform(low, high) if scheme >= 0 else hue + draws.uniform(-0.1, 0.1)
        contrast = min(contrast, 0.75)
        dark = draws.uniform(0.15, 0.95 - contrast)
        strength = muted * saturation * draws.uniform(0.6, 1.4)
        colours = []
        for turn, value in ((hue, dark), (other, dark + contrast)):
            rgb = colorsys.hsv_to_rgb(turn % 1.0, min(1.0, strength), value)
            colours.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
        if draws.uniform() < 0.5:
            colours.reverse()
        return colours[0], colours[1]

    def _develop(self, canvas: np.ndarray, draws: Draws, size: int) -> np.ndarray:
        """Illumination falling off along a direction, blur, pixel noise; RGBX to RGB."""
        spec = self.spec
        if draws.uniform() < spec.blur:
            canvas = cv2.blur(canvas, (3, 3))
        turn = draws.uniform(0, 2 * math.pi)
        strength = draws.uniform(0, spec.illumination) * 128
        gain = draws.uniform(1 - 0.5 * spec.illumination, 1 + 0.3 * spec.illumination) * 128
        across = np.arange(size) / size - 0.5
        along = np.repeat((gain + strength * math.cos(turn) * across).astype(np.int16), 4)
        field = np.add.outer((strength * math.sin(turn) * across).astype(np.int16), along)
        np.minimum(np.maximum(field, 20, out=field), 200, out=field)
        # 255 times 200 fits 16 bits, and so does the noise: the spec bounds it
        lit = field.view(np.uint16)
        np.multiply(lit, canvas.reshape(size, 4 * size), out=lit)
        np.right_shift(lit, 7, out=lit)
        sigma = np.int16(round(draws.uniform(0.15, 1.0) * spec.noise * 8))
        noisy = lit.view(np.int16)
        noisy += self._noise(draws, size).reshape(size, 4 * size) * sigma >> 8
        np.minimum(np.maximum(noisy, 0, out=noisy), 255, out=noisy)
        return cv2.cvtColor(noisy.astype(np.uint8).reshape(size, size, 4), cv2.COLOR_RGBA2RGB)

    def _noise(self, draws: Draws, size: int) -> np.ndarray:
        """A random window of the stored noise; standard deviation 32. A canvas larger than the store repeats it."""
        top, left = draws.below(_BANK), draws.below(_BANK)
        if top + size <= _BANK and left + size <= _BANK:
            return self._bank[top : top + size, left : left + size]
        rows, columns = (np.arange(start, start + size) % _BANK for start in (top, left))
        return self._bank[rows[:, None], columns]
