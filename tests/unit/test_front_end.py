"""The front end is built where it must be and nowhere else, and its own tests pass: a user would lose the dashboard."""

from __future__ import annotations

import gzip
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FRONT = ROOT / "labextension"
WIDGET_LIMIT_BYTES = 60_000


@pytest.fixture
def hook() -> ModuleType:
    """The build hook as hatchling loads it."""
    spec = importlib.util.spec_from_file_location("hatch_build", FRONT / "hatch_build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with a front end that was never built."""
    front = tmp_path / "labextension"
    (front / "core" / "src").mkdir(parents=True)
    (front / "package.json").write_text('{"scripts": {"build": "false"}}')
    (front / "package-lock.json").write_text("{}")
    (front / "core" / "src" / "index.ts").write_text("")
    return tmp_path


def built(clone: Path, hook: ModuleType, *, time_s: int) -> None:
    """Pretend that the outputs were built at this time."""
    for name in hook.OUTPUTS:
        path = clone / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        os.utime(path, (time_s, time_s))


def test_what_was_never_built_is_built_and_what_is_new_enough_is_kept(hook: ModuleType, clone: Path) -> None:
    assert hook._is_stale(clone)
    built(clone, hook, time_s=4_000_000_000)
    assert not hook._is_stale(clone)
    os.utime(clone / "labextension" / "core" / "src" / "index.ts", (4_000_000_001, 4_000_000_001))
    assert hook._is_stale(clone)


def test_an_sdist_needs_no_node(hook: ModuleType, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in clone.rglob("*"):
        os.utime(path, (1_580_601_600, 1_580_601_600))  # the one time of all files in an sdist
    built(clone, hook, time_s=1_580_601_600)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert hook.FrontEndHook(str(clone), {}, None, None, "", "wheel").dependencies() == []


def test_node_comes_from_the_index_only_where_the_machine_has_none(
    hook: ModuleType, clone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asks = hook.FrontEndHook(str(clone), {}, None, None, "", "wheel").dependencies
    monkeypatch.setenv("PATH", "/nonexistent")
    assert asks() == [hook.NODE_WHEEL]
    for name, text in (("npm", ""), ("node", "echo v18.1.0")):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\n{text}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert asks() == [hook.NODE_WHEEL]
    (tmp_path / "bin" / "node").write_text("#!/bin/sh\necho v22.3.0\n")
    assert asks() == []
    monkeypatch.setenv(hook.SKIP, "1")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert asks() == []


def test_without_node_the_build_says_what_is_missing(
    hook: ModuleType, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RuntimeError, match=r"needs Node.js 20 or newer with npm.*NB_ELASTIC_NO_FRONT_END=1"):
        hook.build(clone)


@pytest.mark.skipif(not shutil.which("npm"), reason="needs Node.js")
def test_a_build_that_fails_shows_why(hook: ModuleType, clone: Path) -> None:
    mark = clone / "labextension" / "node_modules" / ".package-lock.json"
    mark.parent.mkdir()
    mark.write_text("{}")
    (clone / "labextension" / "package.json").write_text('{"scripts": {"build": "echo a type is wrong; false"}}')
    with pytest.raises(RuntimeError, match="`npm run build` failed in labextension/(?s:.*)a type is wrong"):
        hook.build(clone)


@pytest.mark.skipif(not (FRONT / "node_modules").exists(), reason="the front end's packages were not installed here")
def test_the_typescript_tests_pass() -> None:
    done = subprocess.run(["npm", "test"], cwd=FRONT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "# pass " in done.stdout


@pytest.mark.skipif(
    not (ROOT / "nb_elastic" / "static" / "widget.js").exists(), reason="the front end was not built here"
)
def test_the_widget_is_small() -> None:
    """It travels in every launch of a notebook; the charts only when somebody looks at them."""
    packed = [
        len(gzip.compress((ROOT / "nb_elastic" / "static" / name).read_bytes(), 9))
        for name in ("widget.js", "widget.css")
    ]
    assert 0 < sum(packed) < WIDGET_LIMIT_BYTES
