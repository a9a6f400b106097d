"""Images whose size is not what their annotations say, and what EXIF has to do with it."""

from __future__ import annotations

from scaleprior.corpus.images import ImageFacts

__all__ = ["EXIF_HINT", "SIZE_HINT", "describe_size", "is_stored_size"]

SIZE_HINT = "repair the annotations"
EXIF_HINT = (
    "the annotations say the size before turning: if the boxes were drawn on the upright image, swap its width and "
    "height there; if they were drawn on the stored pixels, remove the tag (exiftool -Orientation= FILE) or annotate "
    "again"
)


def describe_size(name: str, image: ImageFacts, height: int, width: int) -> str:
    """``NAME is 30x20, the annotations say 20x30 (width x height)``, and its orientation if it has one."""
    turned = f" upright (its EXIF orientation is {image.orientation})" if image.turned else ""
    return (
        f"{name} is {image.upright_width}x{image.upright_height}{turned}, the annotations say {width}x{height} "
        "(width x height)"
    )


def is_stored_size(image: ImageFacts, height: int, width: int) -> bool:
    """Whether annotations that do not fit the upright image fit it as it is stored."""
    return image.turned and (image.height, image.width) == (height, width)
