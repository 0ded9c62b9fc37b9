"""What is shipped of one file: every byte at its place, also of files that a rank made odd on purpose.

A user would lose: bytes of a log, or a link to a file of the node's that was none of the run's.
"""

from __future__ import annotations

import base64
import json
import os

from nb_elastic.node.shipping_files import PIECE_BYTES, GrowingFile, ReplacedFile


def pieces(one):
    """Look, and take all there is."""
    one.look()
    found = []
    while (line := one.next_piece("0badcafe", "a-run")) is not None:
        assert len(line) <= 32_000
        found.append(json.loads(line))
    return found


def shown(found):
    return [(line["type"], line["offset"], base64.b64decode(line["data"])) for line in found]


def test_growth_is_sent_with_its_offsets(tmp_path):
    path = tmp_path / "stdout.log"
    one = GrowingFile(path, "round_0/0/stdout.log")
    assert pieces(one) == []
    path.write_bytes(b"")
    assert shown(pieces(one)) == [("piece", 0, b"")], "it is there"
    assert pieces(one) == []
    path.write_bytes(b"one\n")
    assert pieces(one) == [
        {
            "from": "0badcafe",
            "type": "piece",
            "run_id": "a-run",
            "path": "round_0/0/stdout.log",
            "offset": 0,
            "data": "b25lCg==",
        }
    ]
    path.write_bytes(b"one\ntwo\n")
    assert shown(pieces(one)) == [("piece", 4, b"two\n")]


def test_a_long_line_comes_in_pieces(tmp_path):
    path = tmp_path / "stdout.log"
    text = os.urandom(5 * PIECE_BYTES + 7)
    path.write_bytes(text)
    found = shown(pieces(GrowingFile(path, "stdout.log")))
    assert [offset for _, offset, _ in found] == [n * PIECE_BYTES for n in range(6)]
    assert b"".join(data for *_, data in found) == text


def test_holes_are_passed_over(tmp_path):
    """A rank can make a file of a terabyte that holds nothing."""
    path = tmp_path / "stdout.log"
    with path.open("wb") as f:
        f.write(b"before")
        f.seek(1 << 40)
        f.write(b"after")
    found = shown(pieces(GrowingFile(path, "stdout.log")))
    assert len(found) < 10
    whole = bytearray()
    for _, offset, data in found:
        if data.strip(b"\0"):
            whole += data.strip(b"\0")
            end = offset + len(data)
    assert (bytes(whole), end) == (b"beforeafter", (1 << 40) + 5)


def test_a_hole_at_the_end_tells_the_size(tmp_path):
    path = tmp_path / "stdout.log"
    path.touch()
    os.truncate(path, 1 << 40)
    assert shown(pieces(GrowingFile(path, "stdout.log"))) == [("piece", 1 << 40, b"")]


def test_zeros_that_were_written_are_sent(tmp_path):
    path = tmp_path / "stdout.log"
    path.write_bytes(bytes(3 * PIECE_BYTES))
    assert b"".join(data for *_, data in shown(pieces(GrowingFile(path, "stdout.log")))) == bytes(3 * PIECE_BYTES)


def test_a_log_that_was_cut_goes_on_where_it_grows_again(tmp_path):
    path = tmp_path / "stdout.log"
    one = GrowingFile(path, "stdout.log")
    path.write_bytes(b"0123456789")
    pieces(one)
    path.write_bytes(b"012")
    assert pieces(one) == []
    path.write_bytes(b"0123456789ab")
    assert shown(pieces(one)) == [("piece", 10, b"ab")]


def test_links_pipes_and_folders_are_not_read(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        for kind in (GrowingFile, ReplacedFile):
            assert pieces(kind(tmp_path / name, name)) == []


def test_a_file_exchanged_for_a_link_is_not_followed(tmp_path):
    """After the look, before the reading."""
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "stdout.log"
    for kind in (GrowingFile, ReplacedFile):
        path.write_text("harmless")
        one = kind(path, "stdout.log")
        assert one.look()
        path.unlink()
        path.symlink_to(tmp_path / "secret")
        assert one.next_piece("0badcafe", "a-run") is None
        path.unlink()


def test_what_is_replaced_is_sent_again_and_what_goes_is_told(tmp_path):
    path, aside = tmp_path / "held.json", tmp_path / "aside"
    one = ReplacedFile(path, "round_0/0/held.json")
    assert pieces(one) == []
    for text in (b"first", b"second"):
        aside.write_bytes(text)
        aside.rename(path)
        (line,) = pieces(one)
        assert (line["type"], line["offset"], line["size"], line["is_last"]) == ("whole", 0, len(text), True)
        assert base64.b64decode(line["data"]) == text
        assert pieces(one) == []
    path.unlink()
    assert pieces(one) == [{"from": "0badcafe", "type": "gone", "run_id": "a-run", "path": "round_0/0/held.json"}]
    path.write_bytes(b"")
    assert [(line["size"], line["is_last"]) for line in pieces(one)] == [(0, True)]


def test_a_large_result_is_one_content_though_it_is_replaced_meanwhile(tmp_path):
    path, aside = tmp_path / "result.pkl", tmp_path / "aside"
    first, second = os.urandom(3 * PIECE_BYTES), os.urandom(100)
    path.write_bytes(first)
    one = ReplacedFile(path, "round_0/0/result.pkl")
    one.look()
    begun = [json.loads(one.next_piece("0badcafe", "a-run"))]
    aside.write_bytes(second)
    aside.rename(path)
    assert not one.look(), "what is being sent is sent to its end first"
    while (line := one.next_piece("0badcafe", "a-run")) is not None:
        begun.append(json.loads(line))
    assert b"".join(data for *_, data in shown(begun)) == first
    assert b"".join(data for *_, data in shown(pieces(one))) == second
