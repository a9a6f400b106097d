"""Forms by name, and a form written outside the package: what docs/laws.md promises in "Add a form"."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from scaleprior.errors import UserError
from scaleprior.laws import CALIBRATED, Form, Law, compare_laws, draw_law, fit_law, get_form, known_forms, register_form
from scaleprior.laws.forms import forms_table, registry

REPO = Path(__file__).resolve().parents[2]
DOCS = (REPO / "docs" / "laws.md").read_text(encoding="utf-8")
(SHIFTED,) = re.findall(r"## Add a form\n.*?```python\n(.*?)```", DOCS, re.DOTALL)
N = np.geomspace(1e3, 1e6, 9)
AP = 100.0 * (1.0 - (0.35 + 0.6 * (1.0 + N / 2e4) ** -0.5)) + 0.1 * np.sin(np.arange(9))


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What a test registers goes with it."""
    known = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(known)


@pytest.fixture
def shifted() -> type[Form]:
    """The class that the docs show, registered by running what they show."""
    names: dict[str, type[Form]] = {"__name__": "a_notebook"}  # type: ignore[dict-item]
    exec(SHIFTED, names)
    return names["Shifted"]


def install(folder: Path, module: str, text: str, entries: str, package: str = "my-forms") -> None:
    """Lay a module and the metadata of its package where an installer would."""
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(text, encoding="utf-8")
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[scaleprior.forms]\n{entries}\n", encoding="utf-8")


def bits(law: Law) -> bytes:
    """All numbers that a law gives, as bytes."""
    arrays = [*law.predict(np.geomspace(N[0] / 3, 30 * N[-1], 50)), law.selection.weights, law.curves.log_e]
    return b"".join(np.ascontiguousarray(a).tobytes() for a in arrays) + "\n".join((law.why, *law.notes)).encode()


def test_the_form_of_the_docs_is_short() -> None:
    assert len([line for line in SHIFTED.splitlines() if line.strip()]) <= 25


def test_a_form_from_outside_is_fitted_predicted_drawn_and_compared(shifted: type[Form]) -> None:
    from matplotlib.figure import Figure

    law = fit_law(N, AP, forms="shifted")
    assert law.form == "shifted"
    assert isinstance(law.candidates[0].form, shifted)
    truth = 100.0 * (1.0 - (0.35 + 0.6 * (1.0 + 3e6 / 2e4) ** -0.5))
    mean, low, high = law.predict(3e6)
    assert mean == pytest.approx(truth, abs=0.5)
    assert low < truth < high
    found = law.candidates[0].form.describe(law.candidates[0].theta, law.n_ref)
    assert found["d"] * found["n_ref"] == pytest.approx(2e4, rel=0.5)
    assert found["c"] == pytest.approx(0.5, abs=0.1)
    # 60 ((1 + 1e5 / 2e4)^-0.5 - (1 + 1e6 / 2e4)^-0.5)
    assert float(law.per_decade) == pytest.approx(16.09, abs=0.5)
    assert law.forms.can_fall  # it did not say so
    assert "not measured with shifted" in law.notes[0]
    ax = Figure().subplots()
    draw_law(ax, law)
    (line,) = [line for line in ax.get_lines() if line.get_label() == "shifted"]
    assert np.isfinite(np.asarray(line.get_ydata(), dtype=float)).all()
    better = fit_law(N, AP + 5.0, forms=shifted())
    assert compare_laws(better, law).at[N[-1]].value == pytest.approx(5.0, abs=1.0)


def test_among_others_it_is_combined_and_drawn_even_as_the_eighth(shifted: type[Form]) -> None:
    from matplotlib.figure import Figure

    law = fit_law(N, AP, forms=[*CALIBRATED, "shifted"])
    assert "shifted" in law.selection.used
    ax = Figure().subplots()
    draw_law(ax, law)
    assert "shifted" in [line.get_label() for line in ax.get_lines()]


def test_registering_a_wild_form_changes_nobodys_law() -> None:
    before = bits(fit_law(N, AP)), bits(fit_law(N, AP, forms=["M1", "M3"]))
    calls = []

    @register_form
    class Wild(Form):
        name = "a-wild-one"
        aliases = ("wild",)
        formula = "e = 0.5 + x sin(9 u)"
        parameters = ("x",)

        def error(self, theta: np.ndarray, u: np.ndarray) -> np.ndarray:
            calls.append(theta.shape)
            return 0.5 + theta * np.sin(9.0 * u)

    assert get_form("wild").name == "a-wild-one"
    calls.clear()  # registering tries it once
    assert (bits(fit_law(N, AP)), bits(fit_law(N, AP, forms=["M1", "M3"]))) == before
    assert calls == []


def test_auto_is_these_seven_in_this_order() -> None:
    # the constants of select.py and law.py were measured with exactly these: to change them is to calibrate again
    assert [form.name for form in CALIBRATED] == ["log-linear", "M1", "power-law", "M3", "M4", "logistic", "broken"]
    assert set(fit_law(N, AP).selection.held_back) == {form.name for form in CALIBRATED}


@pytest.mark.parametrize(
    ("alias", "name"), [("M2", "power-law"), ("loglinear", "log-linear"), ("bnsl", "broken"), ("BNSL", "broken")]
)
def test_names_of_before_still_work(alias: str, name: str) -> None:
    assert get_form(alias) is get_form(name)


def test_unknown_names_are_answered_with_the_nearest_and_all_known(shifted: type[Form]) -> None:
    with pytest.raises(
        UserError, match=r"unknown form 'shiftd'; did you mean 'shifted'\? known are auto, log-linear, "
    ):
        fit_law(N, AP, forms="shiftd")
    with pytest.raises(UserError, match=r"'m3'; did you mean 'M3'\?.*, shifted$"):
        get_form("m3")


def test_the_table_of_the_docs_is_the_registrys(shifted: type[Form]) -> None:
    *rows, last = forms_table().splitlines()
    assert "\n".join(rows) in DOCS
    assert last == "| shifted | e = a + b (1 + n/d)^-c | no |  |"


def test_a_cell_may_run_twice_but_names_are_not_taken_from_others(shifted: type[Form]) -> None:
    exec(SHIFTED, {"__name__": "a_notebook"})  # the same class again
    assert not isinstance(get_form("shifted"), shifted)
    with pytest.raises(UserError, match="'shifted' is known already, from a_notebook:Shifted"):
        exec(SHIFTED, {"__name__": "another"})
    for taken in ("M3", "bnsl", "auto"):
        with pytest.raises(UserError, match=f"'{taken}' is known already"):
            exec(SHIFTED.replace('"shifted"', f'"{taken}"'), {"__name__": "another"})


def form_class(**attributes: object) -> type[Form]:
    usual = {"name": "mine", "formula": "e = x", "parameters": ("x",), "error": lambda self, theta, u: theta + 0 * u}
    return type("Mine", (Form,), {**usual, **attributes})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"formula": ""}, "form Mine has no formula"),
        ({"prior_scale": (1.0, 2.0)}, "has 1 parameters, a prior mean of"),
        ({"error": lambda self, theta, u: theta[0] + 0 * u}, r"error\(theta \[2, 1\], u \[4\]\) gives shape \[4\]"),
        ({"error": lambda self, theta, u: theta + np.log(-1.0 + 0 * u)}, "is not finite at its prior's mean"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_an_incomplete_form_is_refused_at_the_door(attributes: dict[str, object], message: str) -> None:
    broken = form_class(**attributes)
    with pytest.raises(UserError, match=message):
        register_form(broken)
    with pytest.raises(UserError, match=message):
        fit_law(N, AP, forms=broken())
    assert "mine" not in known_forms()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_form_without_values_at_the_data_is_refused() -> None:
    half = form_class(name="half", error=lambda self, theta, u: np.exp(theta) * np.sqrt(2.0 + u))
    with pytest.raises(UserError, match="form 'half' has no finite error at some of the measured images"):
        fit_law(N, AP, forms=half())


def test_a_package_announces_a_form_and_its_faults_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SHIFTED.replace("@register_form\n", "")
    entries = "shifted = shifted_form:Shifted\nother = shifted_form:Shifted\ngone = shifted_form:Gone"
    install(tmp_path / "site", "shifted_form", text, entries)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert known_forms()[-3:] == ["gone", "other", "shifted"]
    assert fit_law(N, AP, forms="shifted").form == "shifted"
    with pytest.raises(UserError, match=r"form 'gone' of package my-forms .* does not load: AttributeError"):
        get_form("gone")
    with pytest.raises(UserError, match="announces form 'other', but it is called 'shifted'"):
        get_form("other")
    with pytest.raises(UserError, match="'shifted' is known already, from shifted_form:Shifted"):
        exec(SHIFTED, {"__name__": "a_notebook"})
    install(tmp_path / "more", "shifted_again", text, "shifted = shifted_again:Shifted", package="more-forms")
    monkeypatch.syspath_prepend(tmp_path / "more")
    with pytest.raises(UserError, match="announced by package more-forms and package my-forms"):
        get_form("shifted")


def test_the_command_line_fits_an_announced_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    text = SHIFTED.replace("@register_form\n", "")
    install(tmp_path / "site", "shifted_form", text, "shifted = shifted_form:Shifted")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    rows = "".join(f"{n},{ap}\n" for n, ap in zip(N, AP))
    (tmp_path / "results.csv").write_text(f"images,ap\n{rows}", encoding="utf-8")
    run = cli("laws", "fit", "results.csv", "--form", "shifted", "--predict", "3e6", "--json", "--out", "laws.json")
    assert run.returncode == 0, run.stderr
    (law,) = json.loads(run.stdout)["laws"].values()
    assert law["form"] == "shifted"
    here = fit_law(N, AP, forms=_made(text), unit="percent").predict(3e6)
    assert law["predictions"][0]["mean"] == pytest.approx(float(here[0]), rel=1e-9)
    assert "M3, M4, logistic, broken, shifted" in cli("laws", "fit", "--help").stdout
    assert "| shifted | e = a + b (1 + n/d)^-c | no |" in cli("laws", "forms").stdout
    wrong = cli("laws", "fit", "results.csv", "--form", "shift")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("scaleprior: error: unknown form 'shift'; did you mean 'shifted'? known are auto, ")


def _made(text: str) -> Form:
    names: dict[str, type[Form]] = {}
    exec(text, names)
    return names["Shifted"]()
