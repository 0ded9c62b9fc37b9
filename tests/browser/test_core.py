"""The dashboard's core in a page of its own, without Jupyter."""

from __future__ import annotations

from typing import Any


def test_the_core_loads_in_a_browser(bare_page: Any) -> None:
    assert bare_page.evaluate("nbe.isFinal('failed')") is True
