"""``scaleprior://`` in iopath's PathManager and in Detectron2's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from iopath.common.file_io import PathManager

from scaleprior.backbones.zoo import add_backbone, register
from scaleprior.errors import UserError


def check(manager: Any, backbone: Path) -> None:
    add_backbone(backbone, "mine")
    register(manager)
    register(manager)
    uri = "scaleprior://mine"
    assert Path(manager.get_local_path(uri)).read_bytes() == backbone.read_bytes()
    with manager.open(uri, "rb") as file:
        assert file.read() == backbone.read_bytes()
    assert manager.exists(uri)
    assert manager.isfile(uri)
    assert not manager.exists("scaleprior://none")
    assert not manager.exists("scaleprior://paper-R-50-jft-10m")
    assert "mine" in manager.ls("scaleprior://")
    with pytest.raises(UserError, match="the zoo is read only"):
        manager.open(uri, "wb")
    with pytest.raises(UserError, match="no backbone 'mime'; did you mean mine"):
        manager.get_local_path("scaleprior://mime")
    with pytest.raises(UserError, match="not public"):
        manager.get_local_path("scaleprior://paper-R-50-jft-10m")


def test_iopath(home: Path, backbone: Path) -> None:
    check(PathManager(), backbone)


@pytest.mark.detectron2
def test_detectron2(home: Path, backbone: Path) -> None:
    file_io = pytest.importorskip("detectron2.utils.file_io", reason="detectron2 is not installed")
    check(file_io.PathManager, backbone)
