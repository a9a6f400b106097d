"""A long table of labels, a row a label: reading and joining it by image, against pandas doing the same.

    python benchmarks/corpus_tables.py [--rows 1000000] [--pandas PYTHON]

Peer: pandas in an environment of its own, whose interpreter is PYTHON (by default this one): ``read_csv``, then
``groupby(...).agg(list)`` of the present and of the absent labels. Both are processes that end with every image's two
lists; what is compared is their CPU time, with the start of the interpreter and imports, and their largest memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
OURS = """
import sys
from scaleprior.corpus.importers.tables import LabelTable
table = LabelTable(sys.argv[1])
print(sum(len(row.labels) + len(row.absent) for row in table.rows()), table.count())
"""
PANDAS = """
import sys
import pandas as pd
table = pd.read_csv(sys.argv[1])
sides = [table[table.Confidence == sign].groupby("ImageID")["LabelName"].agg(list) for sign in (1, 0)]
joined = pd.concat(sides, axis=1)
print(sum(len(side) for row in joined.itertuples(index=False) for side in row if isinstance(side, list)), len(joined))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pandas", default=sys.executable, metavar="PYTHON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "labels.csv"
        write_table(table, args.rows)
        measured = {"ours": measure(sys.executable, OURS, table), "pandas": measure(args.pandas, PANDAS, table)}
    assert measured["ours"][2] == measured["pandas"][2], "the two disagree about the table"
    print(f"{'':8} {'CPU s':>7} {'MB':>6}")
    for name, (seconds, megabytes, _) in measured.items():
        print(f"{name:8} {seconds:7.2f} {megabytes:6.0f}")
    ratio = measured["ours"][0] / measured["pandas"][0]
    figures = {f"{name}_cpu_s": round(seconds, 2) for name, (seconds, _, _) in measured.items()}
    figures.update({f"{name}_mb": round(megabytes) for name, (_, megabytes, _) in measured.items()})
    figures.update(rows=args.rows, cpu_over_pandas=round(ratio, 3))
    targets = {"cpu_over_pandas": 1.0}
    print(json.dumps({"bench": "corpus_tables", "figures": figures, "targets": targets, "met": ratio <= 1.0}))


def write_table(path: Path, rows: int) -> None:
    """Open Images' columns; eight rows an image in the mean, in no order, half of them absences, 600 labels."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        file.write("ImageID,Source,LabelName,Confidence\n")
        for _ in range(rows):
            image, label, sign = rng.randrange(max(1, rows // 8)), rng.randrange(600), rng.randrange(2)
            file.write(f"{image:016x},verification,/m/{label:05x},{sign}\n")


def measure(python: str, code: str, table: Path) -> tuple[float, float, str]:
    """CPU seconds, largest memory in MB, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    watched = f"{code}\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    run = subprocess.run([python, "-c", watched, table], capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        sys.exit(f"benchmarks/corpus_tables.py: error: {python}: {run.stderr.strip().splitlines()[-1]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    said, kilobytes = run.stdout.splitlines()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, int(kilobytes) / 1024, said


if __name__ == "__main__":
    main()
