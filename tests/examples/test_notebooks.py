"""The notebooks of examples/, executed in their small form; what is committed of them is clean."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

REPO = Path(__file__).resolve().parents[2]
EXAMPLES = REPO / "examples"
SMALL: dict[str, dict[str, Any]] = {
    "study": {
        "LADDER": [16, 32, 64], "PRETRAIN_STEPS": 4, "FINETUNE_STEPS": 3, "HELD_OUT": 8,
        "DETECTION": {"train": 12, "val": 8, "canvas": 48},
    },
    "backbone": {"IMAGES": 64, "PRETRAIN_STEPS": 2, "FINETUNE_STEPS": 2, "SCENES": {"train": 8, "val": 4}},
    "laws": {"RESULTS": str(EXAMPLES / "quickstart_results.csv")},
}  # fmt: skip
_MOST_BYTES = 200_000  # of a committed notebook, its pictures included


def notebooks() -> list[Path]:
    return sorted(EXAMPLES.glob("*.ipynb"))


def test_every_notebook_is_executed_and_listed() -> None:
    assert {path.stem for path in notebooks()} == set(SMALL)
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in listed for path in notebooks())


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_what_is_committed_is_clean(path: Path) -> None:
    assert path.stat().st_size < _MOST_BYTES
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"]
    assert all(line.strip() for cell in notebook.cells for line in (cell.source[:1], cell.source[-1:]))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    text = re.sub(r"[A-Za-z0-9+/=]{200,}", "a picture", path.read_text(encoding="utf-8"))
    for place in ("/tmp/", "/home/", "/root/", "/Users/", "C:\\\\"):
        assert place not in text, f"{path.name} holds a path of a machine: {place}"
    numbers = [cell.execution_count for cell in code]
    assert numbers in ([None] * len(code), list(range(1, len(code) + 1))), "executed from top to bottom, or not at all"


@pytest.mark.slow
@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the small parameters in a cell of their own behind those of the reader."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    place = next(k for k, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    lines = [f"{name} = {value!r}" for name, value in SMALL[path.stem].items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    client = nbclient.NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    said = "\n".join(
        str(output.get("text") or output.get("data", {}).get("text/html") or output.get("data", {}).get("text/plain"))
        for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )  # fmt: skip
    expected = {
        "study": ("'images': 0,", "'images': 64,", "data:image/png;base64,", "report.html"),
        "backbone": ("Backbone(", "'res5': (2, ", "MODEL.PIXEL_MEAN", "AP "),
        "laws": ("AP per tenfold images", "R-50 minus R-152"),
    }
    for words in expected[path.stem]:
        assert words in said, words
    if path.stem == "backbone":
        assert ("Detectron2 is not installed here" in said) != ("the stem is ours: True" in said)
