"""The miniature (configs/studies/miniature.yaml) beside its study: recipe search, shuffled labels, near-duplicates.

    python benchmarks/miniature.py recipe --corpus FOLDER --out SEARCH [--jobs 2]
    python benchmarks/miniature.py shuffle --corpus FOLDER --out labels_shuffled.csv
    python benchmarks/miniature.py duplicates --corpus FOLDER --detection FOLDER [--sheet pairs.png]

``--corpus`` holds tars of photographs, labels.csv (file, wnid, split) and hierarchy.json; ``--detection`` the mosaics:
instances_{train,val}.json, whose annotations name the ``tile`` that each photograph fills, and their tars.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from scaleprior.files import write_csv

BASE = "Pretrain/small_images.yaml"
"""What the candidates change."""
CANDIDATES: Mapping[str, tuple[str, ...]] = {
    "sgd 0.1": (),
    "sgd 0.05": ("PRETRAIN.OPTIMIZER.BASE_LR", "0.05"),
    "sgd 0.2": ("PRETRAIN.OPTIMIZER.BASE_LR", "0.2"),
    "decay 2e-3": ("PRETRAIN.OPTIMIZER.WEIGHT_DECAY", "0.002"),
    "adamw 2e-3": (
        *("PRETRAIN.OPTIMIZER.NAME", "adamw", "PRETRAIN.OPTIMIZER.BASE_LR", "0.002"),
        *("PRETRAIN.OPTIMIZER.WEIGHT_DECAY", "0.05"),
    ),
}
ENDS = (250, 16_000)
SEED = 100  # none of the study's
_COLUMNS = ("recipe", "depth", "images", "steps", "map", "best_map", "best_step", "precision_at_1")

_SIDE, _LOW = 32, 8  # of the grey thumbnail, and of the corner of its cosine transform that is hashed
_BITS = 14  # of 63 may differ; what the controls say of that is printed
_ALIKE = 0.8  # correlation of two grey thumbnails from which on somebody should look at them


@dataclass(frozen=True)
class Run:
    """One run of the search."""

    recipe: str
    depth: int
    images: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.recipe.replace(' ', '')}-R{self.depth}-{self.images}-{self.steps}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    recipe = actions.add_parser("recipe")
    recipe.add_argument("--jobs", type=int, default=2)
    recipe.add_argument("--depth", type=int, action="append", help="default: 50; may be given again")
    recipe.add_argument("--steps", type=int, action="append", help="default: 1500; may be given again")
    recipe.add_argument("--only", action="append", choices=list(CANDIDATES), help="a recipe; may be given again")
    recipe.add_argument("--out", type=Path, required=True)
    shuffle = actions.add_parser("shuffle")
    shuffle.add_argument("--out", type=Path, required=True)
    duplicates = actions.add_parser("duplicates")
    duplicates.add_argument("--detection", type=Path, required=True)
    duplicates.add_argument("--sheet", type=Path, help="a picture of all pairs that were found, to look at")
    for action in (recipe, shuffle, duplicates):
        action.add_argument("--corpus", type=Path, required=True)
    args = parser.parse_args(argv)
    {"recipe": _recipe, "shuffle": _shuffle, "duplicates": _duplicates}[args.action](args)
    return 0


def _recipe(args: argparse.Namespace) -> None:
    """Every candidate on both ends of the ladder; what is there already is not run again."""
    index = args.out / "index"
    if not (index / "corpus.json").is_file():
        _scaleprior(
            *("corpus", "build", str(args.corpus), str(index), "--labels", str(args.corpus / "labels.csv")),
            *("--label-column", "wnid", "--split", "train", "--hierarchy", str(args.corpus / "hierarchy.json")),
        )
    runs = [
        Run(name, depth, images, steps)
        for depth in args.depth or [50]
        for steps in args.steps or [1500]
        for name in args.only or CANDIDATES
        for images in reversed(ENDS)
    ]

    def run(run: Run) -> None:
        out = args.out / run.name
        if not (out / "result.json").is_file():
            _scaleprior(
                *("pretrain", "--config-file", BASE, "--out", str(out), "--resume"),
                *("PRETRAIN.CORPUS", str(index), "PRETRAIN.FRACTION.IMAGES", str(run.images)),
                *("PRETRAIN.NOISE.RATE", "0.2", "MODEL.RESNETS.DEPTH", str(run.depth), "SEED", str(SEED)),
                *("PRETRAIN.BUDGET.AMOUNT", str(run.steps), "PRETRAIN.EVAL.PERIOD", "250"),
                *("PRETRAIN.CHECKPOINT_PERIOD", "100", *CANDIDATES[run.recipe]),
            )

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(run, runs))
    rows = [_measured(args.out, run) for run in runs]
    write_csv(args.out / "recipe.csv", _COLUMNS, rows)
    for row in rows:
        print("  ".join(f"{name} {row[name]}" for name in _COLUMNS))


def _measured(out: Path, run: Run) -> dict[str, Any]:
    lines = [json.loads(line) for line in (out / run.name / "metrics.jsonl").read_text().splitlines()]
    held_out = [line for line in lines if "held_out/map" in line]
    best, last = max(held_out, key=lambda line: line["held_out/map"]), held_out[-1]
    return {
        "recipe": run.recipe, "depth": run.depth, "images": run.images, "steps": run.steps,
        "map": round(last["held_out/map"], 4), "best_map": round(best["held_out/map"], 4),
        "best_step": best["step"], "precision_at_1": last["held_out/precision_at_1"],
    }  # fmt: skip


def _scaleprior(*words: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "scaleprior", *words], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"scaleprior {' '.join(words)}:\n{done.stderr[-2000:]}")


def _shuffle(args: argparse.Namespace) -> None:
    """The same photographs and the same labels, dealt anew within each split: as many of each, and no relation."""
    with open(args.corpus / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for split in sorted({row["split"] for row in rows}):
        own = [row for row in rows if row["split"] == split]
        labels = [row["wnid"] for row in own]
        random.Random(0).shuffle(labels)
        for row, label in zip(own, labels):
            row["wnid"] = label
    write_csv(args.out, list(rows[0]), rows)


def _duplicates(args: argparse.Namespace) -> None:
    """Photographs of the corpus in the detection sets, and photographs in both of those; to be looked at."""
    corpus = dict(_photographs(args.corpus))
    tiles = {split: dict(_tiles(args.detection, split)) for split in ("train", "val")}
    print(f"{len(corpus)} photographs of the corpus; tiles: {len(tiles['train'])} train, {len(tiles['val'])} val")
    twice, found = _pasted_twice(args.detection, tiles["train"])
    print(f"control: of {twice} photographs that were pasted twice {found} are found")
    altered, far = _control(list(corpus.values())[:2000])
    print(f"control: {altered:.1%} of altered copies are found; {far:.1e} of other pairs have hashes as close")
    sheet = []
    for name, ours, others in (
        ("corpus and train", corpus, tiles["train"]),
        ("corpus and val", corpus, tiles["val"]),
        ("train and val", tiles["train"], tiles["val"]),
    ):
        pairs = sorted(_pairs(ours, others), key=lambda pair: -pair[2])
        most = f", correlation up to {pairs[0][2]:.3f}" if pairs else ""
        print(f"{name}: {len(pairs)} pairs to look at{most}")
        for a, b, alike in pairs:
            print(f"  {alike:.3f}  {a}  {b}")
            sheet.append(np.hstack([ours[a], others[b]]))
    if args.sheet is not None and sheet:
        _draw(sheet, args.sheet)


def _draw(pairs: Sequence[np.ndarray], path: Path, columns: int = 6) -> None:
    cells = [cv2.copyMakeBorder(cv2.resize(pair, None, fx=2.5, fy=2.5), *[4] * 4, cv2.BORDER_CONSTANT, value=255.0)
             for pair in pairs]  # fmt: skip
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    cv2.imwrite(str(path), np.vstack(rows).astype(np.uint8))


def _pasted_twice(folder: Path, tiles: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Photographs that the set says it has twice, in other sizes and compressed again, and how many of them we find."""
    truth = json.loads((folder / "instances_train.json").read_text(encoding="utf-8"))
    source = {str(annotation["id"]): annotation["source"] for annotation in truth["annotations"]}
    copies: dict[str, list[np.ndarray]] = {}
    for name, thumbnail in tiles.items():
        copies.setdefault(source[name.partition("#")[2]], []).append(thumbnail)
    pairs = [np.stack(some) for some in copies.values() if len(some) == 2]
    return len(pairs), sum(_alike(*pair) for pair in pairs)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return any(_close(_hashes(one[None]), _hashes(other[None]))) and _correlation(one, other) >= _ALIKE


def _photographs(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        wanted = {row["file"] for row in csv.DictReader(file) if row["split"] == "train"}
    for name, content in _members(sorted(folder.glob("*.tar"))):
        if name in wanted:
            yield name, _thumbnail(_decoded(content))


def _tiles(folder: Path, split: str) -> Iterator[tuple[str, np.ndarray]]:
    """Each pasted photograph once for each time it was pasted, by its mosaic and its place there."""
    truth = json.loads((folder / f"instances_{split}.json").read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    objects: dict[str, list[Mapping[str, Any]]] = {}
    for annotation in truth["annotations"]:
        objects.setdefault(names[annotation["image_id"]], []).append(annotation)
    for name, content in _members(sorted(folder.glob(f"{split}-*.tar"))):
        image = _decoded(content)
        for annotation in objects.get(Path(name).name, ()):
            x, y, width, height = (round(v) for v in annotation["tile"])
            yield f"{split}/{Path(name).name}#{annotation['id']}", _thumbnail(image[y : y + height, x : x + width])


def _members(tars: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    yield member.name, file.read()


def _decoded(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def _hashes(thumbnails: np.ndarray) -> np.ndarray:
    """The perceptual hash by the cosine transform (pHash): signs of its low frequencies about their median; uint64 [N].

    Args:
        thumbnails: float32 [N, 32, 32].
    """
    low = np.stack([cv2.dct(one)[:_LOW, :_LOW].ravel()[1:] for one in thumbnails])
    bits = low > np.median(low, axis=1, keepdims=True)
    return (bits.astype(np.uint64) << np.arange(bits.shape[1], dtype=np.uint64)).sum(axis=1, dtype=np.uint64)


def _close(ours: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of hashes that differ in at most _BITS."""
    for start in range(0, len(others), 256):
        differing = np.bitwise_count(ours[:, None] ^ others[None, start : start + 256])
        yield from ((int(a), int(b) + start) for a, b in np.argwhere(differing <= _BITS))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else 0.0


def _pairs(ours: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str, float]]:
    """Names of those whose hashes are close and whose thumbnails correlate; mirrored ones count, too."""
    names, other_names = list(ours), list(others)
    one, other = np.stack(list(ours.values())), np.stack(list(others.values()))
    own = _hashes(one)
    for seen in (other, np.ascontiguousarray(other[:, :, ::-1])):
        for a, b in _close(own, _hashes(seen)):
            alike = _correlation(one[a], seen[b])
            if alike >= _ALIKE:
                yield names[a], other_names[b], alike


def _control(photographs: Sequence[np.ndarray]) -> tuple[float, float]:
    """Of altered copies the share that is found; of pairs of different photographs the share with hashes as close.

    Copies are moved by up to a pixel of the thumbnail's 32, brighter or darker by up to 12 %, and noisy.
    """
    generator = np.random.default_rng(0)
    one = np.stack(photographs)
    copies = []
    for image in one:
        dx, dy = generator.uniform(-1, 1, 2)
        moved = cv2.warpAffine(
            image, np.array([[1, 0, dx], [0, 1, dy]], np.float32), (_SIDE, _SIDE), borderMode=cv2.BORDER_REFLECT
        )
        copies.append(moved * generator.uniform(0.88, 1.12) + generator.normal(0, 3, moved.shape).astype(np.float32))
    other = np.stack(copies).astype(np.float32)
    near = list(_close(_hashes(one), _hashes(other)))
    found = sum(a == b and _correlation(one[a], other[b]) >= _ALIKE for a, b in near)
    return found / len(one), sum(a != b for a, b in near) / (len(one) * (len(one) - 1))


if __name__ == "__main__":
    sys.exit(main())
