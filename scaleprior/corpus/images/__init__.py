"""Encoded images: what their headers say, and their pixels, upright, or an error that says what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.corpus.images.decoding import WarnFn as WarnFn, check_image as check_image, decode as decode
    from scaleprior.corpus.images.facts import (
        IMAGE_SUFFIXES as IMAGE_SUFFIXES,
        MAX_PIXELS as MAX_PIXELS,
        ImageError as ImageError,
        ImageFacts as ImageFacts,
    )
    from scaleprior.corpus.images.headers import (
        has_deep_grey as has_deep_grey,
        image_size as image_size,
        inspect_image as inspect_image,
        open_with_pillow as open_with_pillow,
        seems_complete as seems_complete,
    )

lazy_exports(__name__)
