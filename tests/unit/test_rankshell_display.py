"""``display`` in a rank asks an object for its forms as IPython does, without IPython, and survives what they raise."""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import pytest

from nb_elastic import rankshell_display
from nb_elastic.rankshell_display import clear_output, display, forms


class Shown:
    """An object with forms."""

    def __init__(self, **methods: Any) -> None:
        self.__dict__.update({f"_repr_{name}_": method for name, method in methods.items()})

    def __repr__(self) -> str:
        return "<Shown>"


class Recorder:
    """Stands in for the rank's outputs."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def show(self, data: Any, metadata: Any = None, *, display_id: str = "", is_update: bool = False) -> None:
        self.told.append(("update" if is_update else "display", display_id, dict(data)))

    def clear(self, *, is_later: bool = False) -> None:
        self.told.append(("clear", is_later))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    recorder = Recorder()
    monkeypatch.setattr(rankshell_display, "OWN", recorder)
    monkeypatch.setattr(rankshell_display, "_shell", lambda: None)
    return recorder.told


@pytest.fixture(autouse=True)
def _no_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rankshell_display, "_shell", lambda: None)


def test_forms_are_those_that_ipython_asks_for() -> None:
    one = Shown(html=lambda: "<b>x</b>", png=lambda: (b"p", {"width": 3}), svg=lambda: None, jpeg=lambda: b"j")
    assert forms(one) == (
        {"text/html": "<b>x</b>", "image/png": b"p", "text/plain": "<Shown>"},  # a picture once, not twice
        {"image/png": {"width": 3}},
    )


def test_a_bundle_goes_before_single_forms() -> None:
    one = Shown(
        mimebundle=lambda include, exclude: ({"text/html": "bundle", "text/plain": "own"}, {}), html=lambda: "single"
    )
    assert forms(one) == ({"text/html": "bundle", "text/plain": "own"}, {})


def test_only_the_wanted_forms_are_shown() -> None:
    one = Shown(html=lambda: "h", latex=lambda: "$x$")
    assert forms(one, include=["text/latex"])[0] == {"text/latex": "$x$"}
    assert set(forms(one, exclude=["text/html"])[0]) == {"text/latex", "text/plain"}


def test_a_form_that_raises_is_told_and_the_others_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def bad() -> str:
        raise ValueError("no html today")

    assert forms(Shown(html=bad, latex=lambda: "$x$"))[0] == {"text/latex": "$x$", "text/plain": "<Shown>"}
    assert "ValueError: no html today" in capsys.readouterr().err


def test_an_object_without_any_working_form_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert forms(Silent()) == ({"text/plain": "<Silent object>"}, {})
    assert "RuntimeError: no" in capsys.readouterr().err


@pytest.mark.parametrize("odd", [mock.MagicMock(name="everything"), Shown, sys])
def test_what_seems_to_have_every_form_is_shown_as_text(odd: Any) -> None:
    assert set(forms(odd)[0]) == {"text/plain"}


def test_an_object_that_shows_itself_is_not_shown_twice(told: list[Any]) -> None:
    class Own:
        def _ipython_display_(self) -> None:
            display("by itself")

    display(Own())
    assert told == [("display", "", {"text/plain": "'by itself'"})]


def test_text_goes_to_stdout_once_and_updates_do_not_flood_it(
    told: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    handle = display("a", display_id=True)
    assert handle
    handle.update("b")
    display({"text/plain": "c", "text/html": "<c>"}, raw=True)
    display("d", clear=True)
    clear_output()
    name = handle.display_id
    assert told == [
        ("display", name, {"text/plain": "'a'"}),
        ("update", name, {"text/plain": "'b'"}),
        ("display", "", {"text/plain": "c", "text/html": "<c>"}),
        ("clear", True),
        ("display", "", {"text/plain": "'d'"}),
        ("clear", False),
    ]
    assert capsys.readouterr().out == "'a'\nc\n'd'\n"


def test_an_update_needs_an_id() -> None:
    with pytest.raises(TypeError, match="display_id required"):
        display("x", update=True)
