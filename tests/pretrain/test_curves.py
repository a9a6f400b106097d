"""The picture of a run: the figures it is made of, that nothing in it overlaps, and that no run hangs on it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import cv2
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from scaleprior.pretrain import pretrain
from scaleprior.pretrain.figures import curves as curves_module
from scaleprior.pretrain.figures.curves import CURVES, Curves, draw_curves, read_curves, save_curves
from tests.pretrain.test_recording import EVALUATED


def write(path: Path, *rows: dict) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def plain(step: int, loss: float) -> dict:
    return {"step": step, "images": 4 * step, "loss": loss, "lr": 0.1, "images_per_s": 50.0, "waited": 0.25}


def test_figures_of_both_runtimes_and_of_a_run_that_went_from_one_to_the_other(tmp_path: Path) -> None:
    write(
        tmp_path / "metrics.jsonl", plain(1, 4.0), plain(2, 3.0), {"step": 2, "held_out/map": 0.5, "held_out/images": 9}
    )
    detectron2 = {"lr": 0.05, "images_per_s": 60.0, "time": 2.0, "data_time": 0.5, "eta_seconds": 3.0}
    write(
        tmp_path / "metrics.json",
        {"iteration": 2, "total_loss": 2.0, **detectron2},
        {"iteration": 3, "total_loss": 1.0, "probe/knn_map": 0.25, **detectron2},
        {"iteration": 4, "held_out/map": 0.75, "probe/knn_map": 0.5},  # after the last of 4 steps
    )
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iteration": 9')  # cut short by a kill
    found = read_curves(tmp_path)
    assert found.series == {
        "loss": [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)],
        "lr": [(1, 0.1), (2, 0.1), (3, 0.05), (4, 0.05)],
        "images_per_s": [(1, 50.0), (2, 50.0), (3, 60.0), (4, 60.0)],
        "waited": [(1, 0.25), (2, 0.25), (3, 0.25), (4, 0.25)],
    }
    assert found.measured == {"held_out/map": [(2, 0.5), (4, 0.75)], "probe/knn_map": [(4, 0.5)]}


def made(steps: int, *, measured: bool, loss: Callable[[float], float] = lambda share: 4 - share) -> Curves:
    places = range(1, steps + 1)
    series: dict[str, list[tuple[float, float]]] = {
        "loss": [(s, loss(s / steps)) for s in places],
        "lr": [(s, 0.1 * (1 - (s - 1) / steps)) for s in places],
        "images_per_s": [(s, 400.0 + s % 7) for s in places],
        "waited": [(s, 0.05) for s in places],
    }
    names = ("held_out/map", "held_out/precision_at_1", "probe/linear_accuracy", "probe/knn_accuracy")
    return Curves(series, {name: [(steps, 0.5)] for name in names} if measured else {})


def shown_texts(figure: Figure) -> list[Text]:
    """All that is drawn; matplotlib keeps labels of ticks outside an axis, too, and does not draw them."""
    outside = set()
    for ax in figure.axes:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            outside |= {tick.label1 for tick in ticks if not limits[0] <= tick.get_loc() <= limits[1]}
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    return [text for text in texts if text.get_text() and text.get_visible() and text not in outside]


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("steps", [1, 4, 1000])
def test_no_words_overlap_or_leave_the_picture(steps: int, measured: bool) -> None:
    figure = draw_curves(made(steps, measured=measured), title="R-50-w8_a_corpus_of_a_long_name-1000000_seed0")
    FigureCanvasAgg(figure).draw()
    assert len([ax for ax in figure.axes if ax.get_title(loc="left")]) == (4 if measured else 3)
    boxes = [text.get_window_extent() for text in shown_texts(figure)]
    assert len(boxes) > 12
    corners = [corner for box in boxes for corner in (box.min, box.max)]
    assert all(figure.bbox.padded(1).contains(*corner) for corner in corners)
    for one, other in combinations(boxes, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))


def test_axes_are_logarithmic_where_that_helps() -> None:
    def scales(curves: Curves) -> list[str]:
        return [ax.get_yscale() for ax in draw_curves(curves).axes[:2]]

    assert scales(made(50, measured=False)) == ["linear", "linear"]
    falls = made(50, measured=False, loss=lambda share: 10 * 0.1**share)
    falls.series["lr"] = [(s, 0.1 * 0.5 ** (s // 5)) for s in range(1, 51)]
    assert scales(falls) == ["log", "log"]
    # a loss of nothing has no place on a logarithmic axis, and a warmup is a straight line
    nothing = made(50, measured=False, loss=lambda share: 1 - share)
    nothing.series["lr"] = [(s, min(s / 10, 1.0)) for s in range(1, 51)]
    assert scales(nothing) == ["linear", "linear"]


@pytest.mark.parametrize(("best", "top"), [(0.04, 0.05), (0.9, 1.1), (0.0, 1.1)])
def test_what_was_measured_fills_its_panel(best: float, top: float) -> None:
    """Early in a run, or with many labels, all shares are small: on an axis to 1 they would be one flat line."""
    curves = made(50, measured=True)
    for name in curves.measured:
        curves.measured[name] = [(10, best / 2), (50, best)]
    (panel,) = (ax for ax in draw_curves(curves).axes if ax.get_title(loc="left") == "measured")
    assert max(best, 0.0) < panel.get_ylim()[1] <= top


@pytest.mark.usefixtures("pictures")
def test_a_finished_run_has_its_picture_also_where_it_was_killed_before(small_config: Callable, tmp_path: Path) -> None:
    config, out = small_config(*EVALUATED), tmp_path / "run"
    pretrain(config, out)
    image = cv2.imread(str(out / CURVES))
    assert image is not None
    assert image.shape == (840, 1560, 3)
    drawn = (out / CURVES).read_bytes()
    pretrain(config, out, resume=True)
    assert (out / CURVES).read_bytes() == drawn
    (out / CURVES).unlink()
    pretrain(config, out, resume=True, curves=False)
    assert not (out / CURVES).exists()
    pretrain(config, out, resume=True)
    assert (out / CURVES).exists()
    assert save_curves(tmp_path) is None  # no figures


@pytest.mark.usefixtures("pictures")
def test_a_picture_that_cannot_be_drawn_is_said_and_loses_nothing(
    small_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "scaleprior.pretrain.call")
    with monkeypatch.context() as patched:
        for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
            patched.delitem(sys.modules, name)
        patched.setitem(sys.modules, "matplotlib", None)
        assert pretrain(small_config(), tmp_path / "without").metrics.steps == 4
    monkeypatch.setattr(curves_module, "draw_curves", lambda curves, title: 1 / 0)
    assert pretrain(small_config(), tmp_path / "broken").metrics.steps == 4
    for folder in ("without", "broken"):
        assert (tmp_path / folder / "result.json").exists()
        assert not list((tmp_path / folder).glob("*curves*"))
    said = [record.getMessage() for record in caplog.records if record.name == "scaleprior.pretrain.call"]
    assert said == [
        "no curves.png: it needs the matplotlib package",
        f"{tmp_path / 'broken' / CURVES} was not drawn: ZeroDivisionError: division by zero",
    ]
