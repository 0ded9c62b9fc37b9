"""Dashboards of made-up runs in a bare page, for the tests of the dashboard's shell.

Runs in: the tests.
"""

from __future__ import annotations

from typing import Any


class Shell:
    """A dashboard that is drawn from one of the runs in ``core/tests/fake.ts``; in the page, ``run`` and ``dashboard``."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def show(self, scene: str, *, before: str = "", host: str = "{}", tabs: str = "nbe.FAKE_TABS") -> Any:
        """Draw a scene; ``before`` is JavaScript that may change ``run`` first. Returns the page."""
        self.page.evaluate(
            f"""() => {{
                const run = window.run = nbe.SCENES[{scene!r}]();
                window.asked = [];
                {before};
                window.dashboard = nbe.mountDashboard(document.getElementById('root'), run, {host}, {tabs});
            }}"""
        )
        return self.page

    def change(self, script: str) -> None:
        """Run JavaScript that changes ``run``."""
        self.page.evaluate(f"() => {{ {script} }}")

    def asked(self) -> Any:
        """What the dashboard asked of its host."""
        return self.page.evaluate("window.asked")
