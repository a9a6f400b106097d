"""Room 1: what we learn from. Label spaces, indexes in hash order, fractions, noise, shards, the synthetic world."""

from __future__ import annotations

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "ByteReader": "shards",
        "Corpus": "corpus",
        "Fraction": "fraction",
        "ImageError": "images",
        "LabelSpace": "label_space",
        "ImageRow": "index",
        "ShardWriter": "shards",
        "World": "world",
        "WorldSpec": "world",
        "build_index": "index",
        "contact_sheet": "world",
        "corrupt_labels": "noise",
        "decode": "images",
        "hash64": "hashing",
        "open_source": "importers",
        "tar_members": "shards",
    },
)
