"""Files and folders that are no weights, in words: what a download, a tool or another framework left instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["CUT_OFF", "NEEDED", "folder_words", "stranger", "zip_words"]

_AGAIN = "get the file again, and look at its size and first bytes"
_UNPACK = "unpack it first, and give the file that was in it"
_KERAS = "no trunk here takes Keras' weights"
_WEIGHTS = (".pth", ".pt", ".bin", ".safetensors", ".pkl", ".tar", ".ckpt")
CUT_OFF = "a download or a copy that ended early leaves this: compare the size with its publisher's, and get it again"
"""What to do about half an archive."""

_BEGINNINGS: tuple[tuple[re.Pattern[bytes], str, str], ...] = tuple(
    (re.compile(start, re.DOTALL | re.IGNORECASE), what, instead)
    for start, what, instead in (
        (rb"\Z", "it is empty", _AGAIN),
        (rb"version https://git-lfs", "it is Git LFS's pointer to a file, not the file", "get that by `git lfs pull`"),
        (rb"\s*<(?:!doctype html|html|head)", "it is a page of the web (HTML), as a server sends in a file's place",
         "open its address in a browser; large files often need a confirmation there"),
        (rb"\s*<\?xml", "it is XML, as a storage server sends with an error", _AGAIN),
        (rb"\x1f\x8b", "it is compressed (gzip)", _UNPACK),
        (rb"\xfd7zXZ", "it is compressed (xz)", _UNPACK),
        (rb"BZh", "it is compressed (bzip2)", _UNPACK),
        (rb"\x28\xb5\x2f\xfd", "it is compressed (zstd)", _UNPACK),
        (rb"7z\xbc\xaf|Rar!", "it is an archive (7z, rar)", _UNPACK),
        (rb".{257}ustar", "it is an archive (tar)", _UNPACK),
        (rb"\x89HDF", "it is an HDF5 file, as Keras writes", _KERAS),
        (rb"\x93NUMPY", "it is one array (.npy)", "save a dict of arrays (.npz), or a state_dict"),
        (rb"\x08.[\x12:]", "it looks like ONNX", "no reader here takes graphs: save the state_dict of the network"),
        (rb"GGUF", "it is GGUF, of language models", "no trunk here is in such a file"),
    )
)  # fmt: skip
"""How a file begins, what it is, what to do."""
_SHOWN = 60  # characters of a text
NEEDED = 512
"""Bytes from which :func:`stranger` can tell."""


def stranger(start: bytes) -> tuple[str, str] | None:
    """(what a file is that begins like this, what to do); None: nobody knows.

    Args:
        start: its first ``NEEDED`` bytes.
    """
    for pattern, what, instead in _BEGINNINGS:
        if pattern.match(start):
            return what, instead
    text = start.decode("utf-8", "replace").strip()
    if text and all(letter.isprintable() or letter in "\r\n\t" for letter in text) and "�" not in text:
        first = text.splitlines()[0]
        return f"it is a text: {first[:_SHOWN]!r}{'...' if len(text) > _SHOWN else ''}", _AGAIN
    return None


def zip_words(names: Sequence[str]) -> str:
    """What to do with a zip archive of these members, none of which a reader knows."""
    if any(name.endswith(".weights.h5") for name in names):
        return f"it is a model of Keras; {_KERAS}"
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    return f"unpack it, and give {weights[0]}" if weights else _AGAIN


def folder_words(folder: Path) -> str:
    """What a folder without weights of a known name holds, and what to give instead."""
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        join = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} w.pth"
        return f"it is a checkpoint of torch.distributed.checkpoint, in pieces; join them by `{join}`"
    if any(re.fullmatch(r"global_step\d+/", name) or name.startswith("zero_pp_rank") for name in names):
        return "it is a checkpoint of DeepSpeed; join it by zero_to_fp32.py, or give its mp_rank_00_model_states.pt"
    if "checkpoint" in names and any(name.endswith(".index") for name in names):
        return "it is a checkpoint of TensorFlow, which no reader here takes"
    return f"it holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}: give one of them" if names else ""
