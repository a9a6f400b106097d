"""Names that become paths lead below their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaleprior.errors import UserError
from scaleprior.places import check_name, inside, is_inside


@pytest.mark.parametrize("name", ["a.jpg", "train/a.jpg", "a/./b", "..a", "a..", "a/...", "C:a", "日本"])
def test_what_lies_below(name: str) -> None:
    assert is_inside(name)
    assert inside("root", name, what="x") == Path("root") / name


@pytest.mark.parametrize("name", ["", ".", "/", "/a", "//a", "..", "../a", "a/../../b", "a/../b", "a\0b"])
def test_what_does_not(name: str) -> None:
    assert not is_inside(name)
    with pytest.raises(
        UserError, match=r"^a\.json: file_name of image 3 is '.*', which does not lie below root; name it"
    ):
        inside("root", name, what="a.json: file_name of image 3")


@pytest.mark.parametrize("name", ["R-50", "a b", "R-50 (x4)", "a.b_c", "Ünï", "+1"])
def test_names_of_one_file(name: str) -> None:
    assert check_name(name, what="architecture") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".git", "a/b", "/a", "a\\b", "a\nb", "\x1b[0m", "C:x", "a\0", "x" * 300]
)
def test_names_of_no_file(name: str) -> None:
    with pytest.raises(UserError, match=r"^architecture "):
        check_name(name, what="architecture")
