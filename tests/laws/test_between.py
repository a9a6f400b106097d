"""The law of an architecture without runs: between its neighbours, and less certain than they are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torchvision

from scaleprior.cli import main
from scaleprior.errors import UserError
from scaleprior.laws import Law, compare_laws, fit_law, fit_laws, law_between
from scaleprior.laws.capacities import PARAMETERS, capacities

SIZES = np.geomspace(1e4, 1e6, 4)
KNOWN = {"R-50": 25.6e6, "R-152": 60.2e6}


def ladders(rng: np.random.Generator, levels: Mapping[str, float], noise: float = 0.4) -> dict:
    n = np.repeat(SIZES, 2)
    return {
        name: (n, level + 5.0 * np.log10(n / 1e4) + noise * rng.normal(size=n.size), [0, 1] * SIZES.size)
        for name, level in levels.items()
    }


@pytest.fixture(scope="module")
def laws() -> Mapping[str, Law]:
    return fit_laws(ladders(np.random.default_rng(0), {"R-50": 20.0, "R-152": 24.0}))


def test_it_lies_between_and_is_less_certain(laws: Mapping[str, Law]) -> None:
    found = law_between(laws, KNOWN, 44.5e6)
    at = [1e4, 1e5, 1e6, 3e6]
    mean, low, high = found.predict(at, noise=False)
    (m50, low50, high50), (m152, low152, high152) = (laws[name].predict(at, noise=False) for name in KNOWN)
    assert (m50 < mean).all()
    assert (mean < m152).all()
    assert (high - low > 1.2 * np.maximum(high50 - low50, high152 - low152)).all()
    share = np.log(44.5 / 25.6) / np.log(60.2 / 25.6)
    assert found.weights == pytest.approx((1 - share, share))
    gain, wider = laws["R-50"].per_decade, found.per_decade
    assert wider.high - wider.low > gain.high - gain.low
    assert f"{1 - share:.2f} of R-50 and {share:.2f} of R-152" in found.why


def test_near_a_measured_one_it_is_that_one_and_outside_ever_less_certain(laws: Mapping[str, Law]) -> None:
    near = law_between(laws, KNOWN, 25.7e6)
    for mine, its in zip(near.predict(1e6, noise=False), laws["R-50"].predict(1e6, noise=False)):
        assert mine == pytest.approx(float(its), abs=0.5)
    widths = []
    for size in (65e6, 80e6, 120e6):
        mean, low, high = law_between(laws, KNOWN, size).predict(1e6, noise=False)
        assert mean == pytest.approx(float(laws["R-152"].predict(1e6)[0]))
        widths.append(high - low)
    assert widths == sorted(widths)


def test_measured_laws_know_nothing_of_capacities(laws: Mapping[str, Law]) -> None:
    before = laws["R-50"].predict(1e6)
    law_between(laws, KNOWN, 44.5e6)
    assert laws["R-50"].predict(1e6) == before


def test_the_same_question_has_the_same_answer(laws: Mapping[str, Law]) -> None:
    one, other = (law_between(laws, KNOWN, 44.5e6).per_decade for _ in range(2))
    assert one == other


def test_all_that_a_law_is_asked_for_can_be_asked(laws: Mapping[str, Law]) -> None:
    found = law_between(laws, KNOWN, 44.5e6)
    assert (found.first, found.last, found.kind) == (1e4, 1e6, "score")
    assert found.gain(1e6, 1e7).value > 0
    assert 1e4 < found.images_for(28.0).value < 1e6
    assert json.loads(json.dumps(found.to_dict()))["neighbours"] == dict(zip(KNOWN, found.weights))
    with pytest.raises(UserError, match="is not a law"):
        compare_laws(found, laws["R-50"])  # type: ignore[arg-type]


def test_what_cannot_be_asked_is_refused(laws: Mapping[str, Law]) -> None:
    for capacity, at, message in (
        ({"R-50": 1.0}, 2.0, r"capacities of 1 measured architecture"),
        ({"R-50": 1.0, "R-18": 2.0}, 3.0, r"'R-18', which is no law; there are R-50, R-152"),
        ({"R-50": 1.0, "R-152": 1.0}, 3.0, r"have one capacity, 1"),
        ({"R-50": 1e8, "R-152": math.nextafter(1e8, 2e8)}, 3e8, r"have one capacity, 1e\+08"),
        ({"R-50": 1002.0, "R-152": 2000.0}, 1002.0, r"1002 is that of R-50"),  # whose log10 numpy rounds otherwise
        ({"R-50": 0.0, "R-152": 1.0}, 3.0, r"the capacity of R-50 is 0\.0"),
        (KNOWN, float("nan"), r"the architecture asked for is nan"),
        (KNOWN, 60.2e6, r"is that of R-152"),
        (KNOWN, 10e6, r"further outside the known ones \(2\.56e\+07 to 6\.02e\+07\)"),
    ):
        with pytest.raises(UserError, match=message):
            law_between(laws, capacity, at)
    alone = {name: fit_law(law.data.n, law.data.metric) for name, law in laws.items()}
    with pytest.raises(UserError, match="were not fitted together"):
        law_between(alone, KNOWN, 44.5e6)
    far = fit_laws(
        {name: (law.data.n * (1e4 if name == "R-152" else 1), law.data.metric) for name, law in laws.items()}
    )
    with pytest.raises(UserError, match="ladders of R-50 and R-152 share no range of images"):
        law_between(far, KNOWN, 44.5e6)


def test_left_out_architectures_are_covered() -> None:
    """Three whose truth is smooth in capacity, the middle one not measured; nominal 0.90."""
    rng = np.random.default_rng(3)
    place = np.log(44.5 / 25.6) / np.log(60.2 / 25.6)
    inside = []
    for _ in range(15):
        bend = np.exp(rng.uniform(-0.7, 0.7))
        base, step = rng.uniform(15.0, 35.0), rng.uniform(0.0, 6.0)
        measured = ladders(rng, {"R-50": base, "R-152": base + step}, noise=rng.uniform(0.3, 1.0))
        found = law_between(fit_laws(measured, forms=["M2", "M3", "M4"]), KNOWN, 44.5e6)
        truth = base + step * place**bend + 5.0 * np.log10([1e2, 3e2])
        _, low, high = found.predict([1e6, 3e6], noise=False)
        inside.append((low < truth) & (truth < high))
    assert (np.mean(inside, axis=0) >= 0.8).all()


def test_documented_parameters_are_torchvision_s() -> None:
    for name, size in PARAMETERS.items():
        weights = getattr(torchvision.models, f"ResNet{name[2:]}_Weights")
        assert weights.DEFAULT.meta["num_params"] == size


@pytest.mark.parametrize(
    ("words", "known", "asked", "defaults"),
    [
        (["R-101"], {"R-50": 25557032.0, "R-152": 60192808.0}, {"R-101": 44549160.0}, ["R-101", "R-50", "R-152"]),
        (["r50=25.6M", "R-152=0.06B", "X=4e7"], {"R-50": 25.6e6, "R-152": 6e7}, {"X": 4e7}, []),
        (["R-50, wide=2=30000k"], {"R-50": 25557032.0, "R-152": 60192808.0}, {"R-50, wide=2": 3e7}, ["R-50", "R-152"]),
    ],
)
def test_capacities_are_read(words: list[str], known: dict, asked: dict, defaults: list[str]) -> None:
    assert capacities(words, ["R-50", "R-152"]) == (known, asked, defaults)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Swin"], "how many parameters 'Swin' has is not known here; give Swin=SIZE"),
        (["X=big"], "'big' is no size"),
        (["X=0M"], "'0M' is no size"),
        (["X=1", "X=2"], "names X twice"),
    ],
)
def test_capacities_that_are_none(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        capacities(words, ["R-50", "R-152"])


def test_the_command_forecasts_between(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.csv"
    data = ladders(np.random.default_rng(0), {"R-50": 20.0, "R-152": 24.0})
    lines = [
        f"{name},{n:.0f},{s},{ap:.3f}" for name, (ns, aps, seeds) in data.items() for n, ap, s in zip(ns, aps, seeds)
    ]
    path.write_text("\n".join(("arch,images,seed,ap", *lines)), encoding="utf-8")
    words = ["laws", "forecast", str(path), "--images", "1e6", "--target", "30", "--capacity", "R-101"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "R-101         1,000,000 images give ap 3" in said
    assert "R-101: No run was measured: between its neighbours" in said
    source = "(R-101, R-50, R-152: parameters as torchvision documents them)"
    assert f"Capacities: R-50 25.6M, R-152 60.2M, R-101 44.5M {source}.\n" in said
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["forecasts"]) == {"R-50", "R-152"}
    (one,) = found["between"].values()
    assert one["capacity"] == 44549160.0
    assert {"neighbours", "images_for", "predictions", "why", "per_decade", "level"} <= one.keys()
    assert main([*words, "R-152=60M"]) == 0
    assert main([*words[:-1], "R-50=25.6M"]) == 2
    assert "--capacity names only architectures with a law: R-50, R-152" in capsys.readouterr().err
