"""Weights in several files: Hugging Face's ``model.safetensors.index.json`` and ``pytorch_model.bin.index.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scaleprior.backbones.readers.limits import LIMITS, Budget, Limits, RefusedFileError, check_name
from scaleprior.backbones.readers.safetensors_files import parse_untrusted
from scaleprior.parsing import is_regular, read_bytes
from scaleprior.wording import shown

__all__ = ["load_shards", "shards_of"]


def shards_of(index: Path, *, limits: Limits = LIMITS) -> dict[str, Path]:
    """Tensor -> the file that an index says it is in, beside the index; the files need not be there.

    Raises:
        RefusedFileError: not an index, a file of elsewhere, or more than the limits.
    """
    content = parse_untrusted(read_bytes(index, what="index", limit=limits.header_bytes), str(index))
    where = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(where, dict) or not where:
        raise RefusedFileError("damaged", f"{index} is JSON without a weight_map, which an index of shards has")
    limits.check_keys(len(where), str(index))
    for shard in where.values():
        if not isinstance(shard, str):
            raise RefusedFileError("damaged", f"{index} names the shard {shown(shard)}, which is no name")
    shards = set(where.values())
    if len(shards) > limits.shards:
        raise RefusedFileError("size", f"{index} names {len(shards):,} shards, at most {limits.shards:,} are read")
    for shard in sorted(shards):
        if Path(shard).name != shard or check_name(shard, str(index), limits) != shard:
            raise RefusedFileError("path", f"{index} names the shard {shown(shard)}, which is not a file beside it")
    return {name: index.parent / shard for name, shard in where.items()}


def load_shards(index: Path, load: Callable[[Path], Any], limits: Limits) -> dict[str, Any]:
    """Tensors of the files that an index names, all in its own folder.

    Args:
        load: what is in a shard.

    Raises:
        RefusedFileError: a shard outside the folder, one that is missing or no dict, a tensor in none or two of them;
            all of them together are more than the limits.
    """
    where = shards_of(index, limits=limits)
    rest = Budget(limits.file_bytes, "has shards of more than {} bytes in all")
    tensors: dict[str, Any] = {}
    for path in sorted(set(where.values())):
        if not is_regular(path):
            raise RefusedFileError("damaged", f"{index} names the shard {path.name}, which is not there")
        rest.spend(path.stat().st_size)
        held = load(path)
        if not isinstance(held, Mapping):
            raise RefusedFileError("damaged", f"{path} is no dict of tensors, as a shard is")
        for name, tensor in held.items():
            if name in tensors:
                raise RefusedFileError("duplicate", f"{path} holds {shown(name)}, which another shard holds, too")
            tensors[name] = tensor
        limits.check_keys(len(tensors), str(index))
    missing = sorted(set(where) - set(tensors))
    if missing:
        said = f"{len(missing)} tensors, first: {shown(missing[0])}"
        raise RefusedFileError("damaged", f"the shards of {index} lack {said}")
    return tensors
