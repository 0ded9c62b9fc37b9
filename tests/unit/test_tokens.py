"""Tokens of ``nb-elastic join``: what a person copies from one machine to another, often by hand.

A user would lose: the difference between a typo and a network that doesn't work, and a key that nobody can guess.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nb_elastic import tokens
from nb_elastic.errors import OptionError
from nb_elastic.tokens import Token

KEY = bytes(range(16))
ONE = Token(key=KEY, addresses=("10.77.0.1",), port=25000)
ADDRESSES = st.lists(st.ip_addresses().map(str), min_size=1, max_size=tokens.MAX_ADDRESSES).map(tuple)


def test_a_token_is_one_word_that_a_double_click_takes():
    assert ONE.text == "nbe1-000g40r40m30e209185gr38e1xgtg10a9m003nq2wgvg", "format 1 never changes"
    assert ONE.text.partition("-")[2].isalnum()
    assert len(ONE.text) < 60


@given(st.binary(min_size=16, max_size=16), ADDRESSES, st.integers(1, 65535))
def test_what_was_written_is_read(key, addresses, port):
    token = Token(key=key, addresses=addresses, port=port)
    assert tokens.parse(token.text) == token


def test_a_token_is_read_as_people_paste_it():
    text = ONE.text
    misread = "nbe1-" + text[5:].replace("0", "O").replace("1", "l")
    for pasted in (text.upper(), f"  {text}\n", text[:20] + "\n" + text[20:], misread):
        assert tokens.parse(pasted) == ONE


def test_every_typo_is_told_before_anything_is_tried():
    """One wrong letter, two swapped, one left out, one doubled: none is ever taken for another token."""
    text = ONE.text
    start = text.index("-") + 1
    wrong = [
        text[:n] + letter + text[n + 1 :] for n in range(start, len(text)) for letter in "0a7z" if text[n] != letter
    ]
    wrong += [
        text[:n] + text[n + 1] + text[n] + text[n + 2 :] for n in range(start, len(text) - 1) if text[n] != text[n + 1]
    ]
    wrong += [text[:n] + text[n + 1 :] for n in range(start, len(text))]
    wrong += [text[:n] + text[n] + text[n:] for n in range(start, len(text))]
    for typo in wrong:
        with pytest.raises(OptionError, match="has a typo or is not whole") as told:
            tokens.parse(typo)
        assert typo[start:] not in str(told.value), "the token is a secret"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no token"),
        ("hello", "no token"),
        ("nbe1", "no token"),
        ("nbe1-", "typo or is not whole"),
        ("nbe1-uuuu", "typo or is not whole"),
        ("nbe1-é", "typo or is not whole"),
        ("nbe1-" + "0" * 100_000, "typo or is not whole"),
        ("nbe2-" + "0" * 40, "format 2, and this nb_elastic knows format 1 only"),
        ("http://nbe1-abc", "no token"),
    ],
)
def test_what_is_no_token_is_told_in_one_sentence(text, words):
    with pytest.raises(OptionError, match=words) as told:
        tokens.parse(text)
    assert len(str(told.value)) < 250


@pytest.mark.parametrize(
    "body",
    [KEY, KEY + b"\0\1", KEY + b"\0\0\4abcd", KEY + b"\0\1\5abcde", KEY + b"\0\1\4abc", KEY + b"\0\1" + b"\4abcd" * 5],
)
def test_a_well_sealed_token_of_nonsense_is_refused(body):
    text = "nbe1-" + tokens._letters(body + tokens._checksum(body))
    with pytest.raises(OptionError, match="makes no sense"):
        tokens.parse(text)


@given(st.text(max_size=80))
def test_any_text_is_a_token_or_an_option_error(text):
    for odd in (text, "nbe1-" + text):
        with pytest.raises(OptionError):
            tokens.parse(odd)


def test_keys_are_random_and_a_token_never_shows_its_own():
    assert len({tokens.new_key() for _ in range(100)}) == 100
    assert len(tokens.new_key()) * 8 >= 128
    assert KEY.hex() not in repr(ONE)
    assert str(KEY) not in repr(ONE)
