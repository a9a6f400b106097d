"""Packaging. ``configs/`` and ``model_zoo/`` live at the top of the repository and travel inside the package."""

import re
import shutil
import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "scaleprior" / "__init__.py").read_text(), re.MULTILINE).group(1)


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


setup(
    name="scaleprior",
    version=VERSION,
    description="What more pretraining data is worth to your detector, and how to get that worth into Detectron2",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    cmdclass={"build_py": BuildWithData},
    packages=find_packages(include=["scaleprior", "scaleprior.*"]),
    package_data={"scaleprior.config": ["*.json"], "scaleprior.study.report": ["templates/*"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "timm>=1.0.9",
        "fvcore>=0.1.5",
        "iopath>=0.1.9",
        "faster-coco-eval>=1.6",
        "opencv-python>=4.8",
        "numpy>=1.24",
        "safetensors>=0.4",
        "pyarrow>=14",
        "duckdb>=1.0",
        "simplejpeg>=1.7",
        "jinja2>=3.1",
        "scipy>=1.10",
        "matplotlib>=3.7",
        "rich>=13",
        "pyyaml>=6",
    ],
    extras_require={
        "ray": ["ray>=2.9"],
        "tune": ["optuna>=3.5"],
        "tensorboard": ["tensorboard"],
        "dev": [
            "pycocotools>=2.0.7",
            "pytest>=7.4",
            "pytest-xdist>=3.5",
            "hypothesis>=6.80",
            "ruff>=0.6",
            "tensorboard",
            "wheel",
            "setuptools>=64",
        ],
    },
    entry_points={
        "console_scripts": ["scaleprior=scaleprior.cli:main"],
        "scaleprior.engines": ["detectron2=scaleprior.d2.engine:Detectron2Engine"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
