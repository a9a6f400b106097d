"""What other packages announce: found by name, loaded late, and named where it is broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from scaleprior import plugins
from scaleprior.errors import UserError


def announce(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: [p for p in points if p.group == group])


def test_what_is_announced_is_found_in_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, EntryPoint("a", "fractions:Fraction", "g"), EntryPoint("b", "no_such_module:x", "g"))
    assert [point.name for point in plugins.announced("g")] == ["a", "b"]  # loading neither
    assert plugins.find_announced("g", "a", "thing").__name__ == "Fraction"
    assert plugins.find_announced("g", "c", "thing") is None
    assert plugins.find_announced("another group", "a", "thing") is None


@pytest.mark.parametrize(("value", "said"), [("no_such_module:x", "ModuleNotFound"), ("fractions:none", "Attribute")])
def test_a_package_that_does_not_load_is_named(value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, EntryPoint("b", value, "g"))
    with pytest.raises(UserError, match=rf"thing 'b' of {value} .*does not load: {said}Error.*; repair or uninstall"):
        plugins.find_announced("g", "b", "thing")


def test_an_error_of_ours_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point(EntryPoint):
        def load(self) -> None:
            raise UserError("needs a licence", hint="buy one")

    with pytest.raises(UserError, match=r"^needs a licence; buy one$"):
        plugins.load_announced(Point("b", "m:x", "g"), "thing")


def test_two_packages_of_one_name_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, EntryPoint("a", "fractions:Fraction", "g"), EntryPoint("a", "decimal:Decimal", "g"))
    with pytest.raises(UserError, match="thing 'a' is announced by fractions:Fraction and decimal:Decimal"):
        plugins.find_announced("g", "a", "thing")


def test_an_unknown_name_gets_the_nearest() -> None:
    assert str(plugins.unknown_name("thing", "Lokal", ["local", "queue"])) == (
        "unknown thing 'Lokal'; did you mean 'local'? known are local, queue"
    )
    assert str(plugins.unknown_name("thing", "x", ["local"])) == "unknown thing 'x'; known are local"
