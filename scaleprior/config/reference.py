"""The page of all config keys, made from their table: ``python -m scaleprior.config.reference > docs/config.md``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scaleprior.config.keys.key import DETECTORS, EVERYBODY, Key
from scaleprior.config.keys.table import DETECTION_KEYS, OWN_KEYS

__all__ = ["describe", "reference_page"]

_HEAD = """\
# Config keys

Made from the table in `scaleprior/config/keys/` by `python -m scaleprior.config.reference > docs/config.md`; change
the table, not this page. `scaleprior config KEY` prints a row of it, `scaleprior config SECTION` a section.

A config is a YAML file of sections in Detectron2's format, with other files under `_BASE_`, and `KEY VALUE` words on
the command line (`SOLVER.MAX_ITER 100`), which win. Keys of Detectron2's keep its names, types and defaults; the one
that differs is `MODEL.DEVICE` ("auto", not "cuda"). The rest of Detectron2's keys need its engine: set to anything but
Detectron2's default they are refused by name.

- **Type**: the default's. A whole number may stand for a number with a fraction, `3.0` for `3`, a list for a tuple and
  the other way round; `1e-3` is a number and an unquoted `off` the word, although YAML 1.1 reads them otherwise.
  Anything else of another type is refused, with the key, its value and what is legal.
- **Values**: what the readers of the key take. *d2* marks keys of which Detectron2 takes other values, too.
- **Read by**: *all* are pretraining and both engines.
- **Changes**: the stages whose results depend on the key. *nothing*: a run may go on under another value, and no cell
  of a study runs again. *by content*: a path, in whose place the fingerprint of what lies there counts. *as trained*:
  a trained detector is evaluated under the value it was trained with; another one that somebody sets is refused.
"""


def describe(key: Key) -> dict[str, Any]:
    """A row in words: name, type, default, values, read_by, changes and meaning."""
    readers = {EVERYBODY: "all", DETECTORS: "both engines"}.get(key.engines) or ", ".join(key.engines)
    changes = ", ".join(key.changes) or "nothing"
    if key.by_content or key.fixed:
        changes += " (by content)" if key.by_content else " (as trained)"
    return {
        "name": key.name,
        "type": key.kind.__name__,
        "default": key.default,
        "values": key.expected,
        "others_in_detectron2": key.elsewhere,
        "read_by": readers,
        "changes": changes,
        "meaning": key.text,
    }


def reference_page(keys: Iterable[Key] = (*DETECTION_KEYS, *OWN_KEYS)) -> str:
    """The page in Markdown: a table for each section."""
    sections: dict[str, list[Key]] = {}
    for key in keys:
        sections.setdefault(_section(key.name), []).append(key)
    parts = [_HEAD]
    for name in sorted(sections, key=lambda n: (list(_tops(sections)).index(n.split(".")[0]), n)):
        parts.append(f"## {name or 'The run'}\n")
        parts.append("| key | default | values | read by | changes | meaning |\n| --- | --- | --- | --- | --- | --- |")
        parts.append("".join(f"{_line(key)}\n" for key in sections[name]))
    return "\n".join(parts)


def _section(name: str) -> str:
    """``MODEL.RPN`` of ``MODEL.RPN.NMS_THRESH``; "" of ``SEED``."""
    return name.rpartition(".")[0]


def _tops(sections: Iterable[str]) -> dict[str, None]:
    return dict.fromkeys(name.split(".")[0] for name in sections)


def _line(key: Key) -> str:
    row = describe(key)
    values = row["values"] + (", *d2*" if row["others_in_detectron2"] else "")
    cells = (f"`{key.name}`", f"`{row['default']!r}`", values, row["read_by"], row["changes"], row["meaning"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(reference_page(), end="")
