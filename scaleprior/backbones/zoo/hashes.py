"""Hashes as publishers print them: SHA-256 or MD5, whole or their first digits.

torchvision's, timm's and many of facebookresearch's files carry the first eight digits of their SHA-256 in their names
(the convention of ``torch.hub``), OpenAI's addresses the whole of it, MoCo's page the first eight of MD5. Eight digits
tell a file from every other that one meets by chance; they are no seal against somebody who makes a file on purpose.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HASH_PATTERN", "PrintedHash", "file_digests"]

HASH_PATTERN = r"sha256:[0-9a-f]{8,64}|md5:[0-9a-f]{8,32}"
_NAMES = {"sha256": ("SHA-256", 64), "md5": ("MD5", 32)}
"""Algorithm -> (what people call it, digits of a whole one)."""


@dataclass(frozen=True)
class PrintedHash:
    """What somebody printed of a file's hash.

    Attributes:
        algorithm: "sha256" or "md5".
        digits: hexadecimal; the whole or its beginning, of at least eight.
    """

    algorithm: str
    digits: str

    @classmethod
    def parse(cls, text: str) -> PrintedHash:
        """From "sha256:0676ba61", which matches ``HASH_PATTERN``."""
        assert re.fullmatch(HASH_PATTERN, text), text
        return cls(*text.split(":"))

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digits}"

    @property
    def name(self) -> str:
        """SHA-256 or MD5."""
        return _NAMES[self.algorithm][0]

    @property
    def words(self) -> str:
        """The digits, with dots where they are the beginning only."""
        return self.digits + ("..." if len(self.digits) < _NAMES[self.algorithm][1] else "")

    def of(self, digests: Mapping[str, str]) -> bool:
        """Whether it is the hash of the file with these digests (algorithm -> hexadecimal)."""
        return digests[self.algorithm].startswith(self.digits)


def file_digests(path: str | Path, algorithms: Collection[str]) -> dict[str, str]:
    """Hexadecimal digests of a file's bytes by algorithm, all from one pass in 1 MiB pieces."""
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            for digest in digests.values():
                digest.update(piece)
    return {name: digest.hexdigest() for name, digest in digests.items()}
