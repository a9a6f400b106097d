"""Weights in several files: Hugging Face's ``model.safetensors.index.json`` and ``pytorch_model.bin.index.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scaleprior.backbones.readers.limits import Limits, RefusedFileError, check_name
from scaleprior.backbones.readers.safetensors_files import unique

__all__ = ["load_shards"]


def load_shards(index: Path, load: Callable[[Path], Any], limits: Limits) -> dict[str, Any]:
    """Tensors of the files that an index names, all in its own folder.

    Args:
        load: what is in a shard.

    Raises:
        RefusedFileError: a shard outside the folder, one that is missing or no dict, a tensor in none or two of them.
    """
    if index.stat().st_size > limits.header_bytes:
        raise RefusedFileError("size", f"{index} has {index.stat().st_size:,} bytes")
    try:
        content = json.loads(index.read_bytes(), object_pairs_hook=lambda pairs: unique(pairs, index))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
        raise RefusedFileError("damaged", f"{index} is not JSON") from e
    where = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(where, dict) or not where:
        raise RefusedFileError("damaged", f"{index} is JSON without a weight_map, which an index of shards has")
    limits.check_keys(len(where), str(index))
    tensors: dict[str, Any] = {}
    for shard in sorted(set(map(str, where.values()))):
        if Path(shard).name != shard or check_name(shard, str(index), limits) != shard:
            raise RefusedFileError("path", f"{index} names the shard {shard!r}, which is not a file beside it")
        path = index.parent / shard
        if not path.is_file():
            raise RefusedFileError("damaged", f"{index} names the shard {shard}, which is not there")
        limits.check_file(path.stat().st_size, str(path))
        held = load(path)
        if not isinstance(held, Mapping):
            raise RefusedFileError("damaged", f"{path} is no dict of tensors, as a shard is")
        for name, tensor in held.items():
            if name in tensors:
                raise RefusedFileError("duplicate", f"{path} holds {name!r}, which another shard holds, too")
            tensors[name] = tensor
    missing = sorted(set(where) - set(tensors))
    if missing:
        raise RefusedFileError("damaged", f"the shards of {index} lack {len(missing)} tensors, first: {missing[0]}")
    return tensors
