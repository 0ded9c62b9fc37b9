"""Names and words of ranks are only ever text: in a terminal, in a saved notebook, in a page.

A user would lose: their clipboard, their screen, or their session, to an escape sequence or a script in what a rank printed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nb_elastic import cli, events, rundir, snapshot
from nb_elastic.render import html
from nb_elastic.rundir import RunDir

SOURCES = Path(__file__).parents[2] / "labextension"
ESCAPES = "\x1b]52;c;c3RvbGVu\x07\x1b[2J\x1b[5n\x1b]0;title\x1b\\\x9b31m\x1b[?1049h\r\x08\u202e"
SCRIPT = '<script>alert(1)</script><img src=x onerror="alert(1)">\'"&'
NASTY = f"a{ESCAPES}b\nc{SCRIPT}"
MAKES_HTML = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|createContextualFragment|DOMParser|\beval\(|new Function|window\.open|location\.(href|assign|replace)"
)
MAY = {"core/src/outputs/html.ts": {"outerHTML", "insertAdjacentHTML", "srcdoc", "DOMParser", "window.open"}}
"""Someone's HTML, cleaned, in a frame without scripts, network and way out."""


@pytest.fixture
def run(elastic_home: Path) -> RunDir:
    """A run of which every word is hostile."""
    folder = rundir.create(wanted_id=NASTY)
    rundir.write_json(folder.run_json, {"name": NASTY, "cell": NASTY, "entry": {"kind": NASTY, "target": NASTY}})
    at = {"round": 0, "attempt": 0, "rank": 0, "local_rank": 0}
    failure = {
        "error_type": NASTY,
        "message": NASTY,
        "traceback": NASTY,
        "hint": NASTY,
        "followed": NASTY,
        "signal": NASTY,
        "reasons": [NASTY],
    }
    failure["frames"] = [{"file": NASTY, "name": NASTY, "text": NASTY, "values": {NASTY: NASTY}}]
    said = [
        events.make("run_created", run_id=NASTY, name=NASTY, entry=NASTY, nproc=NASTY),
        events.make("supervisor_started", pid=1, host=NASTY, torch=NASTY, python=NASTY),
        events.make("note", level="warning", text=NASTY),
        events.make("worker_started", **at, pid=1, start_method=NASTY),
        events.make("worker_ready", **at, worker={"device": NASTY, "binding": NASTY, "cpus": NASTY}),
        events.make(
            "hang_found",
            round=0,
            report={"headline": NASTY, "groups": [{"ranks": [0], "state": NASTY, "doing": NASTY, "notes": [NASTY]}]},
        ),
        events.make("worker_held", **at, why=NASTY, text=NASTY),
        events.make("worker_failed", **at, failure=failure),
        events.make(
            "worker_exited", **at, exit_code=1, signal=NASTY, how=NASTY, result={"text": NASTY, "error": NASTY}
        ),
        events.make("round_ended", round=0, cause=NASTY, text=NASTY),
        events.make("stop_requested", by=NASTY),
        events.make("run_finished", state="failed", root_rank=0, text=NASTY, category=NASTY, reasons=[NASTY]),
    ]
    journal = rundir.Journal(folder.journal)
    for event in said:
        journal.append(event)
    journal.close()
    place = folder.rank(0, 0)
    place.path.mkdir(parents=True)
    for stream in (place.stdout, place.stderr):
        stream.write_text(NASTY + "\n")
    return folder


def test_a_name_of_a_run_can_t_leave_its_folder(run: RunDir):
    assert re.fullmatch(r"[A-Za-z0-9._-]+", run.run_id)
    assert run.path.parent == rundir.home()


@pytest.mark.parametrize("words", [["runs"], ["show"], ["logs"], ["logs", "-n", "1"], ["stop"]], ids=" ".join)
def test_no_escape_sequence_reaches_a_terminal_or_a_pipe(
    run: RunDir, words: list[str], capsys: pytest.CaptureFixture[str]
):
    """`logs` prints harmless text to both: the bytes as they were written are in the file."""
    cli.main(words)
    told = capsys.readouterr()
    assert told.out
    bad = re.search(r".{0,80}[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", told.out + told.err)
    assert bad is None
    if words == ["runs"]:
        assert len(told.out.splitlines()) == 2, "a name with line ends is one row all the same"


def test_a_terminal_gets_colours_at_most(
    run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run.rank(0, 0).stdout.write_text(f"\x1b[31mred\x1b[0m {NASTY}\n".replace("\r", ""))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    cli.main(["logs"])
    told = capsys.readouterr().out
    assert "\x1b[31mred" in told
    assert set(re.findall(r"\x1b(?!\[[0-9;:]*m)", told)) == set()


def test_a_saved_notebook_holds_no_tag_of_theirs(run: RunDir):
    page = html.bundle(snapshot.load(run), run, now_ns=1)["text/html"]
    assert "&lt;script&gt;" in page, "their words are there"
    assert set(re.findall(r"<(script|img[^>]*onerror|iframe|object|embed|form|link|meta|base)", page)) == set()
    assert "\x1b" not in page
    assert not re.search(r"\son\w+\s*=\s*\"alert", page)


@pytest.mark.parametrize("path", sorted(SOURCES.glob("*/src/**/*.ts")), ids=lambda p: p.name)
def test_pages_make_elements_of_text_only(path: Path):
    """dom.h() and textContent: no string becomes HTML but in the one frame that has no rights."""
    found = {match[0] for match in MAKES_HTML.finditer(path.read_text())}
    assert found - MAY.get(path.relative_to(SOURCES).as_posix(), set()) == set()


def test_the_frame_for_html_runs_nothing_loads_nothing_and_leads_nowhere():
    text = (SOURCES / "core/src/outputs/html.ts").read_text()
    assert re.findall(r"sandbox: '(.*)'", text) == ["allow-same-origin"], (
        "no scripts, forms, pop-ups, or way to the top"
    )
    assert "default-src 'none'" in text
