"""What ``import scaleprior as sp`` offers, and that every package's lazy names are the ones that type checkers see."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import scaleprior
from scaleprior._lazy import declared_exports
from tests.detect.conftest import make_coco

PACKAGE = Path(scaleprior.__file__).parent
LAZY = sorted(
    ".".join(path.parent.relative_to(PACKAGE.parent).parts)
    for path in PACKAGE.rglob("__init__.py")
    if "\nlazy_exports(__name__)" in path.read_text(encoding="utf-8")
)
ROOMS = {"backbones", "config", "corpus", "detect", "errors", "laws", "model_zoo", "pretrain", "study", "training"}


def test_every_room_is_lazy() -> None:
    assert {f"scaleprior.{room}" for room in ROOMS - {"errors", "model_zoo"}} < set(LAZY)


@pytest.mark.parametrize("package", LAZY)
def test_a_package_offers_what_its_type_checking_block_declares(package: str) -> None:
    module = importlib.import_module(package)
    exports = declared_exports(package)
    assert set(exports) <= set(module.__all__) <= set(dir(module))
    for name, origin in exports.items():
        found = getattr(module, name)
        if origin == f"{package}.{name}":
            assert found is sys.modules[origin]
        else:
            assert found is getattr(sys.modules[origin], name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = module.nonsense


@pytest.mark.parametrize("package", LAZY)
def test_no_object_is_named_like_a_module_beside_it(package: str) -> None:
    """Importing the module would replace the object in the package; ``scaleprior.pretrain`` solves it by being both."""
    modules = {found.name for found in pkgutil.iter_modules(importlib.import_module(package).__path__)}
    assert {
        n for n, origin in declared_exports(package).items() if n in modules and origin != f"{package}.{n}"
    } == set()


def test_rooms_are_attributes_after_one_import() -> None:
    code = (
        "import json, sys\nimport scaleprior as sp\n"
        f"rooms = {{r: getattr(sp, r).__name__ for r in {sorted(ROOMS)!r}}}\n"
        "print(json.dumps([rooms, dir(sp), 'torch' in sys.modules]))"
    )
    rooms, names, torch = json.loads(python(code))
    assert rooms == {room: f"scaleprior.{room}" for room in ROOMS}
    assert set(names) > {"Corpus", "fit_law", "compare_laws", "__version__", *ROOMS}
    assert not [n for n in names if n.startswith("_") and not n.startswith("__")]
    assert not torch


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


ORDERS = {
    "attribute": "import scaleprior as sp",
    "sub-package first": "import scaleprior.pretrain, scaleprior.detect; import scaleprior as sp",
    "sub-package later": "import scaleprior as sp; sp.pretrain; import scaleprior.pretrain, scaleprior.detect",
    "a name from it": "from scaleprior.pretrain import Schedule; from scaleprior.detect import Engine",
    "a deep module": "import scaleprior.pretrain.optim.schedule, scaleprior.detect.engines",
    "from import": "from scaleprior import pretrain, detect; import scaleprior as sp; assert sp.pretrain is pretrain",
    "import as": "import scaleprior.detect as d; import scaleprior as sp; assert sp.detect is d",
    "another room first": "import scaleprior.study.spec",
}
CHECK = """
import inspect, sys
import scaleprior as sp, scaleprior.pretrain, scaleprior.detect
for room, name in ((sp.pretrain, "pretrain"), (sp.detect, "detect")):
    assert room is sys.modules[f"scaleprior.{name}"] and callable(room)
    assert inspect.signature(room) == inspect.signature(getattr(room, name))
    assert "out" in inspect.signature(room).parameters
    try:
        room(nonsense=1)
    except TypeError as e:
        assert f"{name}() got an unexpected keyword argument 'nonsense'" in str(e), e
    else:
        raise AssertionError(f"{name} was not called")
assert sp.pretrain.Schedule.__module__ == "scaleprior.pretrain.optim.schedule"
assert not {"torch", "cv2", "pyarrow"} & set(sys.modules), "asking for a signature imports nothing heavy"
print("done")
"""


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_two_rooms_are_verbs_in_every_order_of_imports(order: str) -> None:
    assert python(f"{order}\n{CHECK}") == "done"


USER = """
import scaleprior as sp
import scaleprior.pretrain
reveal_type(sp.Corpus.open("x").fraction(images=3))
reveal_type(sp.pretrain("a.yaml", out="b", overrides={"SEED": 1}))
reveal_type(sp.detect("a.yaml", out="b", val=("x", "y")).ap)
reveal_type(sp.load_backbone("x", norm="GN").trunk())
reveal_type(sp.convert("x", "y.safetensors").report)
reveal_type(sp.fit_law([1], [2]))
reveal_type(sp.Study(name="x").run("y").laws())
reveal_type(sp.model_zoo.list())
reveal_type(scaleprior.pretrain.PretrainResult)
import pathlib
import scaleprior.detect.evaluate, scaleprior.detect.trained, scaleprior.study.result
import scaleprior.study.report.summary as summary
found = scaleprior.detect.evaluate.coco_ap({"images": [], "annotations": [], "categories": []}, [])
reveal_type(found.ap)
cell = scaleprior.study.result.CellResult.load(pathlib.Path("x"))
reveal_type(cell.detection.ap)
assert cell.pretrain and cell.pretrain.held_out
reveal_type(cell.pretrain.held_out.map)
reveal_type(sp.Study(name="x").report().summaries[0].points[0].mean)
trained = scaleprior.detect.trained.TrainedDetector.from_dict({}, where="x")
assert trained.card
reveal_type(trained.card.images)
sp.pretrain(3.5)
sp.fitlaw
sp.load_backbone("x", nor="GN")
"""


@pytest.mark.slow
def test_a_type_checker_follows_the_face(tmp_path: Path) -> None:
    checker = next((name for name in ("basedpyright", "pyright") if find_spec(name) is not None), None)
    if checker is None:
        pytest.skip("no pyright here")
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(PACKAGE.parent)], "typeCheckingMode": "basic"})
    )
    command = [sys.executable, "-m", checker, "--outputjson", "--pythonpath", sys.executable, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if not run.stdout.strip().startswith("{"):
        pytest.skip(f"{checker} does not run here: {run.stderr[:200]}")
    said = json.loads(run.stdout)["generalDiagnostics"]
    types = [d["message"].rsplit('is "', 1)[1].rstrip('"') for d in said if d["severity"] == "information"]
    assert types == [
        "Fraction",
        "PretrainResult",
        "float",
        "Trunk",
        "Report",
        "Law",
        "dict[str, Law]",
        "list[str]",
        "type[PretrainResult]",
        *("float", "float", "float | None", "float"),  # an AP on its way from the evaluator to the report
        "int | None",
    ]
    wrong = [d["message"] for d in said if d["severity"] == "error"]
    assert len(wrong) == 3
    assert '"config" of type "ConfigSource"' in wrong[0]
    assert '"fitlaw" is not a known attribute' in wrong[1]
    assert 'No parameter named "nor"' in wrong[2]


def test_completion_offers_the_face() -> None:
    jedi = pytest.importorskip("jedi")
    for code, wanted in {
        "import scaleprior as sp\nsp.": {
            "Corpus",
            "Study",
            "pretrain",
            "detect",
            "fit_law",
            "laws",
            "model_zoo",
        },
        "import scaleprior as sp\nsp.laws.": {"Law", "fit_law", "compare_laws"},
        "import scaleprior as sp\nsp.Corpus.": {"open", "build", "fraction"},
    }.items():
        names = {c.name for c in jedi.Interpreter(code, [{}]).complete()}
        assert wanted <= names, code


def calls_of(text: str) -> list[ast.Call]:
    """Every ``sp.something(...)`` in the Python blocks of a page."""
    nodes = [
        node for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) for node in ast.walk(ast.parse(block))
    ]
    return [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("sp.")]


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_pages_speak_of_names_that_are_there(page: str) -> None:
    text = (PACKAGE.parent / page).read_text(encoding="utf-8")
    text = text.split("## From Python\n", 1)[1].split("\n## ")[0] if page == "README.md" else text
    calls = calls_of(text)
    assert calls
    for node in calls:
        called = eval(ast.unparse(node.func).split("(")[0], {"sp": scaleprior})
        known = inspect.signature(called).parameters
        free = any(p.kind is p.VAR_KEYWORD for p in known.values())
        assert free or {k.arg for k in node.keywords} <= set(known), ast.unparse(node)
    for name in re.findall(r"`sp((?:\.\w+)+)", text):
        eval(f"sp{name}", {"sp": scaleprior})


def test_the_detector_of_the_examples_takes_the_backbone_of_the_examples() -> None:
    from scaleprior.backbones.contract import apply_card
    from scaleprior.config.sources import open_config
    from scaleprior.detect import get_engine
    from scaleprior.pretrain.plan import planned_card

    from_readme = [ast.literal_eval(c.args[0]) for c in calls_of((PACKAGE.parent / "README.md").read_text())
                   if ast.unparse(c.func) == "sp.detect"]  # fmt: skip
    in_docstring = re.findall(r'sp\.detect\("([^"]+)"', inspect.getdoc(scaleprior.detect.detect) or "")
    assert from_readme
    assert in_docstring
    card = planned_card(open_config("Pretrain/R_50_jft.yaml", {"PRETRAIN.CORPUS": "my_index"}).cfg)
    engine = get_engine("torchvision")
    for config in {*from_readme, *in_docstring}:
        engine.check_config(apply_card(open_config(config, defaults=engine.default_config()), card))


def test_the_study_of_the_page_is_planned(tmp_path: Path) -> None:
    from scaleprior.study.cells import plan_cells
    from scaleprior.study.prepare import prepare_data

    (shown,) = [
        c for c in calls_of((PACKAGE.parent / "docs/python.md").read_text()) if ast.unparse(c.func) == "sp.Study"
    ]
    json_file, pictures = make_coco(tmp_path / "coco")
    for place in ("instances_train.json", "instances_val.json"):
        shutil.copy(json_file, tmp_path / place)
    for folder in ("pictures", "my_images/red", "my_images/blue"):
        shutil.copytree(pictures, tmp_path / folder)
    sections = {str(word.arg): eval(ast.unparse(word.value)) for word in shown.keywords}
    spec = scaleprior.Study(sections, folder=tmp_path, overrides={"ladder": [2, 4, 8]}).spec
    cells = plan_cells(spec, prepare_data(spec, tmp_path / "mine"), "torchvision")
    assert [cell.images for cell in cells] == [2, 4, 8]
