"""What an importer met beside the images it takes: counted by kind, with the first few by name."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import Any

__all__ = ["Notes"]

_EXAMPLES = 3  # named in a message
_SUFFIXES = 1000  # told apart; a folder of files with random suffixes must not fill the memory


class Notes:
    """Counts that grow while a source streams; memory does not depend on how much there is.

    Attributes:
        warnings: count and first names of each kind of thing that a reader would want to know of.
        other_files: files that are no images, by suffix; those without one by their whole name.
    """

    def __init__(self) -> None:
        self.warnings: dict[str, tuple[int, list[str]]] = {}
        self.other_files: Counter[str] = Counter()

    def warn(self, kind: str, example: str, *, count: int = 1) -> None:
        """Count ``count`` more of ``kind``, a few words such as "links that lead nowhere"."""
        before, examples = self.warnings.get(kind, (0, []))
        if len(examples) < _EXAMPLES:
            examples.append(_printable(example))
        self.warnings[kind] = before + count, examples

    def other(self, name: str) -> None:
        """Count a file that is no image."""
        path = PurePosixPath(name)
        kind = "._*" if path.name.startswith("._") else _printable(path.suffix.lower() or path.name)
        self.other_files[kind if kind in self.other_files or len(self.other_files) < _SUFFIXES else "more"] += 1

    def clear(self) -> None:
        """Forget all; a stream of rows that starts afresh counts afresh."""
        self.warnings.clear()
        self.other_files.clear()

    def to_dict(self) -> dict[str, Any]:
        """``{"warnings": {kind: {"count", "examples"}}, "other_files": {suffix: count}}``, for ``corpus.json``."""
        warnings = {kind: {"count": n, "examples": names} for kind, (n, names) in self.warnings.items()}
        return {"warnings": warnings, "other_files": dict(self.other_files.most_common())}


def _printable(name: str) -> str:
    """``name`` in characters that every terminal and JSON reader takes; bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
