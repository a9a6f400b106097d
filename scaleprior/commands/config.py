"""``scaleprior config``: what a config key means, takes and changes."""

from __future__ import annotations

import argparse
from typing import Any

from scaleprior.errors import UserError
from scaleprior.terminal import say, say_json

__all__ = ["register"]


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``config`` parser."""
    parser = subparsers.add_parser(
        "config", help="config keys: meaning, type, default, legal values, who reads them, what they change"
    )
    parser.add_argument(
        "names", nargs="*", metavar="KEY", help="SOLVER.MAX_ITER, or a section such as MODEL.RPN; none lists all keys"
    )
    parser.add_argument("--engine", default="", metavar="NAME", help="also the keys that this engine declares")
    parser.add_argument("--json", action="store_true", help="print a JSON list of the rows")
    parser.set_defaults(handler=_config)


def _config(args: argparse.Namespace) -> int:
    if args.engine:
        from scaleprior.detect.engines import get_engine

        get_engine(args.engine).default_config()
    rows = [row for name in args.names or [""] for row in _rows(name.upper())]
    if args.json:
        say_json(rows)
    elif len(rows) == len(args.names):
        for number, row in enumerate(rows):
            say(*([""] if number else []), *_block(row))
    else:
        for row in rows:
            say(f"{row['name']:48} {row['default']!r:24} {row['values']}")
    return 0


def _rows(name: str) -> list[dict[str, Any]]:
    """The rows of a key, or of all keys of a section.

    Raises:
        UserError: neither is there; names the nearest.
    """
    from scaleprior.config.keys.table import all_keys, find_key, nearest
    from scaleprior.config.load import detectron2_defaults
    from scaleprior.config.reference import describe

    key = find_key(name)
    if key is not None:
        return [describe(key)]
    section = [key for key in all_keys() if not name or key.name.startswith(f"{name}.")]
    if section:
        return [describe(key) for key in section]
    theirs = detectron2_defaults()
    if name in theirs:
        return [_of_detectron2(name, theirs[name])]
    near = nearest(name, [*(key.name for key in all_keys()), *theirs])
    raise UserError(
        f"unknown config key {name}", hint=f"did you mean {near}?" if near else "`scaleprior config` lists them"
    )


def _of_detectron2(name: str, default: Any) -> dict[str, Any]:
    meaning = "A key of Detectron2's alone; its detectron2/config/defaults.py explains it."
    return {
        "name": name, "type": type(default).__name__, "default": default, "values": "what Detectron2 takes",
        "others_in_detectron2": True, "read_by": "detectron2", "changes": "what Detectron2 makes of it",
        "meaning": meaning,
    }  # fmt: skip


def _block(row: dict[str, Any]) -> list[str]:
    values = row["values"]
    if row["others_in_detectron2"] and row["read_by"] != "detectron2":
        values += "; Detectron2 takes others, too"
    lines = {"default": f"{row['default']!r} ({row['type']})", "values": values}
    lines |= {"read by": row["read_by"], "changes": row["changes"]}
    return [row["name"], f"  {row['meaning']}", *(f"  {what:8} {text}" for what, text in lines.items())]
