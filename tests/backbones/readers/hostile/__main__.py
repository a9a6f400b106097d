"""A table of what every hostile file costs, each read in a process of its own with limits.

    python -m tests.backbones.readers.hostile FOLDER [NAME ...]

prints: name | bytes | CPU seconds | growth of peak memory in MiB | how it ends.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

from tests.backbones.readers.hostile import FILES, write
from tests.backbones.readers.hostile.oracle import ended
from tests.backbones.readers.malicious import peak

_REPEATED, _SECONDS, _MEMORY = 20_000, 20, 3 << 30


def _read(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    held, began = peak(), time.process_time()
    said = ended(path)
    print(f"{time.process_time() - began:.2f} | {(peak() - held) / 1024:.0f} | {said[:150]}", flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    for name in arguments.names or FILES:
        path = write(arguments.folder, name, _REPEATED)
        print(f"{name} | {path.stat().st_size:,} | ", end="", flush=True)
        process = multiprocessing.get_context("fork").Process(target=_read, args=(path,))
        process.start()
        process.join()
        if process.exitcode:
            print(f"ends with {process.exitcode} within {_SECONDS} s and {_MEMORY >> 30} GiB", flush=True)


if __name__ == "__main__":
    main()
