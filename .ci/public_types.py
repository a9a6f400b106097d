"""Whether a type checker knows all of every public name: parameters, returns, attributes, bases.

``python .ci/public_types.py`` prints what it does not know, and then ends with 1. The names are those of the reference
(``docs/hooks.py``); the verdict is basedpyright's ``--verifytypes``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "docs"))
import hooks  # noqa: E402

UNTYPED = "scaleprior.d2"
"""Not asked: its classes inherit from Detectron2's, which say nothing of their types."""

FINE = (
    "Ambiguous base class override",  # the base class declares the type; the value of a subclass fits it
    "Type of base class unknown",  # a class of iopath, which says nothing of its types
    "Type of metaclass unknown",  # the same
)


def main() -> int:
    public = {f"{where}.{n}" for p in hooks.packages() for n, where in hooks.public_names(p).items() if p != UNTYPED}
    found: dict[str, str] = {}
    for symbol in _symbols():
        if not symbol["isTypeKnown"] and any(symbol["name"] == n or symbol["name"].startswith(f"{n}.") for n in public):
            messages = [" ".join(d["message"].split()) for d in symbol["diagnostics"]]
            messages = [message for message in messages if not message.startswith(FINE)]
            if messages:
                found[symbol["name"]] = messages[0]
    for name, message in found.items():
        print(f"{name}: {message}")
    print(f"{len(public)} public names, {len(found)} symbols of theirs without a complete type")
    return 1 if found else 0


def _symbols() -> list[dict[str, Any]]:
    checker = str(Path(sys.executable).with_name("basedpyright"))
    command = [checker, "--verifytypes", "scaleprior", "--ignoreexternal", "--outputjson"]
    # It ends with 1 where anything of the package is incomplete, public or not.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # the only one it looks at
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment)
    try:
        symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    except (ValueError, KeyError):
        symbols = []
    return symbols or sys.exit(f"{' '.join(command)} found no symbols: {done.stderr or done.stdout}")


if __name__ == "__main__":
    sys.exit(main())
