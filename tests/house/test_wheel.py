"""The built wheel carries configs and catalogue, and works from another folder."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed; its dependencies are those of the running environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    keep = ("scaleprior", "configs", "model_zoo", "setup.py", "pyproject.toml", "README.md", "LICENSE")
    for name in keep:  # a copy, so that the build leaves nothing in the checkout
        path = REPO / name
        ignore = shutil.ignore_patterns("__pycache__", ".*_cache")
        (shutil.copytree(path, source / name, ignore=ignore) if path.is_dir() else shutil.copy(path, source / name))
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "as it is"]):
        subprocess.run(["git", "-C", str(source), *words], check=True, capture_output=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    built = subprocess.run([*build, "--verbose"], check=True, capture_output=True, text=True)
    (folder / "build.log").write_text(built.stdout + built.stderr)
    (wheel,) = folder.glob("*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return folder


def test_the_wheel_holds_every_config_and_the_catalogue(installed: Path) -> None:
    (wheel,) = installed.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "model_zoo"):
        for path in (installed / "source" / folder).rglob("*.*"):
            assert f"scaleprior/_data/{path.relative_to(installed / 'source')}" in names
    for path in (installed / "source" / "scaleprior").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(installed / "source")) in names
    assert not [n for n in names if n.startswith(("tests", "benchmarks"))]


def test_the_build_warns_of_nothing(installed: Path) -> None:
    log = (installed / "build.log").read_text()
    assert "running build_py" in log  # the verbose log, in which a warning would stand
    assert "Deprecat" not in log
    assert "Warning" not in log


def test_the_metadata_say_licence_types_and_entry_points(installed: Path) -> None:
    (folder,) = (installed / "site").glob("scaleprior-*.dist-info")
    metadata = email.message_from_string((folder / "METADATA").read_text(encoding="utf-8"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert (folder / "licenses" / "LICENSE").read_text() == (REPO / "LICENSE").read_text()
    classifiers = metadata.get_all("Classifier")
    assert classifiers is not None
    assert "Typing :: Typed" in classifiers
    assert not [c for c in classifiers if c.startswith("License ::")]  # deprecated beside an SPDX expression
    assert (installed / "site" / "scaleprior" / "py.typed").is_file()
    groups = {e.group for e in Distribution.at(folder).entry_points}
    assert {"console_scripts", "scaleprior.engines"} <= groups


def test_the_installed_package_knows_its_commit(installed: Path, tmp_path: Path) -> None:
    git = ["git", "-C", str(installed / "source"), "rev-parse", "HEAD"]
    head = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    code = "from scaleprior.provenance import created_by; print(created_by()['commit'])"
    environment = {**os.environ, "PYTHONPATH": str(installed / "site")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.strip() == head


@pytest.mark.slow
def test_the_installed_package_runs_a_shipped_study_from_another_folder(installed: Path, tmp_path: Path) -> None:
    """The quickstart itself, cut down to one cell of few steps."""
    short = [
        "ladder", "[32]", "scratch", "false", "seeds", "[0]", "architectures", "{R-50: {}}",
        "corpus.world.images", "640", "detection.world", "{train: 8, val: 8, canvas: 48}",
        "pretrain.overrides", "{PRETRAIN.BUDGET.AMOUNT: 2.0}", "finetune.overrides", "{SOLVER.MAX_ITER: 2}",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(installed / "site"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "scaleprior", "study", "run", "studies/quickstart.yaml", "--out", "out", *short]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    where = subprocess.run(
        [sys.executable, "-c", "import scaleprior; print(scaleprior.__file__)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(installed / "site") in where.stdout
