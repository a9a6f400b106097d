"""The one build step that pyproject.toml cannot say: ``configs/`` and ``model_zoo/`` travel inside the package."""

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


class BuildWithData(build_py):
    """Also copies the config files and the catalogue into the built package, where ``config.data_file`` finds them."""

    def run(self):
        super().run()
        if self.editable_mode:  # an editable install reads them from the checkout
            return
        for folder in ("configs", "model_zoo"):
            target = Path(self.build_lib) / "scaleprior" / "_data" / folder
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(HERE / folder, target)
        if (HERE / ".git").exists():  # so that what an installed package writes says which commit wrote it
            git = ["git", "-C", str(HERE), "rev-parse", "HEAD"]
            done = subprocess.run(git, capture_output=True, text=True, check=False)
            (Path(self.build_lib) / "scaleprior" / "_data" / "commit.txt").write_text(done.stdout)


setup(cmdclass={"build_py": BuildWithData})
