"""A tiny corpus and config: six leaf classes of coloured noise under two parents, 24-pixel PNGs, a narrow ResNet-50."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from scaleprior.corpus import Corpus, build_index, open_source

CLASSES = {"warm": ("red", "orange", "yellow"), "cold": ("green", "blue", "violet")}
COLOURS = ((220, 30, 30), (230, 140, 20), (220, 220, 30), (30, 200, 40), (30, 40, 220), (150, 30, 200))
SMALL = (
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"),
    *("PRETRAIN.BATCH_SIZE", "4", "PRETRAIN.INPUT.SIZE", "16", "PRETRAIN.INPUT.RESIZE", "20"),
    *("PRETRAIN.BUDGET.UNIT", "steps", "PRETRAIN.BUDGET.AMOUNT", "4"),
    *("PRETRAIN.OPTIMIZER.BASE_LR", "0.02", "PRETRAIN.METRICS_PERIOD", "1", "PRETRAIN.CHECKPOINT_PERIOD", "1"),
)

TINY = ("MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.WIDTH_PER_GROUP", "4", "PRETRAIN.HELD_OUT.IMAGES", "6")
"""Over ``SMALL``: a run of a third of a second, with an evaluation."""


def write_images(folder: Path, per_class: int, seed: int = 0) -> Path:
    """Class folders of ``per_class`` images each, with ``hierarchy.json``."""
    rng = np.random.default_rng(seed)
    nodes = {parent: {"name": parent, "parents": []} for parent in CLASSES}
    names = [(leaf, parent) for parent, leaves in CLASSES.items() for leaf in leaves]
    for (leaf, parent), colour in zip(names, COLOURS):
        nodes[leaf] = {"name": leaf, "parents": [parent]}
        (folder / leaf).mkdir(parents=True)
        for number in range(per_class):
            image = np.clip(rng.normal(colour, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / leaf / f"{number}.png"), image[:, :, ::-1])
    (folder / "hierarchy.json").write_text(json.dumps({"nodes": nodes}))
    return folder


def index_images(source: Path, out: Path) -> Corpus:
    """The index of class folders."""
    found = open_source(source)
    facts = {"kind": found.kind}
    return build_index(
        found.rows(), out, label_space=found.label_space, root=found.root, name="tiny", source=facts, verify=False
    )


def index_verified(folder: Path) -> Path:
    """Index folder of 60 images, each verified to be nothing below the other parent; other leaves are unknown."""
    source = open_source(write_images(folder / "images", 10))
    rows = (
        row._replace(absent=tuple(parent for parent, leaves in CLASSES.items() if row.labels[0] not in leaves))
        for row in source.rows()
    )
    facts = {"label_space": source.label_space, "root": source.root, "source": {"kind": source.kind}}
    build_index(rows, folder / "index", name="verified", verify=False, **facts)
    return folder / "index"


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves but for what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    clocks = ("seconds", "images_per_s", "waited", "slowest_rank", "eta_seconds")
    return {
        "files": sorted(path.name for path in folder.iterdir() if path.suffix != ".png"),
        "backbone": (folder / "backbone.safetensors").read_bytes(),
        "head": (folder / "head.safetensors").read_bytes(),
        "result": {name: value for name, value in result.items() if name not in clocks},
        "figures": [{name: value for name, value in line.items() if name not in clocks} for line in lines],
    }


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index folder of 60 images."""
    folder = tmp_path_factory.mktemp("tiny")
    index_images(write_images(folder / "images", 10), folder / "index")
    return folder / "index"


@pytest.fixture
def small_config(corpus_folder: Path) -> Callable:
    """``small_config("KEY", "VALUE", ...)``: the tiny run's config with overrides."""
    from scaleprior.config import load_config

    def load(*overrides: str):
        return load_config("Pretrain/Base-Pretrain.yaml", [*SMALL, "PRETRAIN.CORPUS", str(corpus_folder), *overrides])

    return load


@pytest.fixture(scope="session")
def undisturbed(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of ``TINY``'s four steps."""
    import torch

    from scaleprior.config import load_config
    from scaleprior.pretrain import pretrain

    folder, threads = tmp_path_factory.mktemp("undisturbed"), torch.get_num_threads()
    torch.set_num_threads(1)
    words = [*SMALL, *TINY, "PRETRAIN.CORPUS", str(corpus_folder)]
    pretrain(load_config("Pretrain/Base-Pretrain.yaml", words), folder, check=False)
    torch.set_num_threads(threads)
    return outcome(folder)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Equal bits need equal thread counts, here and in subprocesses."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a moment are not drawn, which takes as long; a test that asks for ``pictures`` has them."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("scaleprior.pretrain.call._draw", lambda folder, backbone: None)


@pytest.fixture
def pictures() -> None:
    """Finished runs are drawn."""
