"""Tokens of ``nb-elastic join``: addresses, port and key of a notebook that waits for nodes, in one word to copy.

Runs in: the kernel and the driver (write) and the command line (reads).

``nbe1-`` tells the format's version; what follows is Crockford's base 32, which has no letters that look like digits
and takes small and capital letters alike. The last bytes are a checksum, so that a typo is told before anything is tried.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from dataclasses import dataclass

from nb_elastic.errors import OptionError

VERSION = 1
KEY_BYTES = 16
MAX_ADDRESSES = 4
_PREFIX = f"nbe{VERSION}-"
_CHECK_BYTES = 4
_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {letter: value for value, letter in enumerate(_LETTERS)} | {"o": 0, "i": 1, "l": 1}
_LONGEST = 400
AGAIN = "Copy it again from where the notebook printed it"


def new_key() -> bytes:
    """A random key."""
    return secrets.token_bytes(KEY_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a machine must know to join.

    Attributes:
        key: secret that both ends prove to have; it never travels itself.
        addresses: IPs at which the notebook may be reached, the best first.
    """

    key: bytes
    addresses: tuple[str, ...]
    port: int

    def __repr__(self) -> str:
        return f"Token(addresses={self.addresses}, port={self.port})"  # a traceback must not show the key

    @property
    def text(self) -> str:
        """The word to copy."""
        packed = [ipaddress.ip_address(address).packed for address in self.addresses]
        body = self.key + self.port.to_bytes(2, "big") + b"".join(bytes([len(p)]) + p for p in packed)
        return _PREFIX + _letters(body + _checksum(body))


def parse(text: str) -> Token:
    """Read a token as a person pasted it.

    Raises:
        OptionError: if it is none, has a typo, or is of another version. The token itself is a secret and never shown.
    """
    word = re.sub(r"\s", "", text).lower()
    found = re.fullmatch(r"nbe([0-9]{1,4})-(.*)", word)
    if found is None:
        raise OptionError(f"This is no token of a notebook that waits for nodes: one begins with {_PREFIX}. {AGAIN}.")
    if int(found[1]) != VERSION:
        raise OptionError(
            f"The token has format {found[1]}, and this nb_elastic knows format {VERSION} only: "
            "install the version here that the notebook has."
        )
    data = _bytes(found[2]) if len(word) <= _LONGEST else b""
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if not data or check != _checksum(body):
        raise OptionError(f"The token has a typo or is not whole ({len(word)} characters came). {AGAIN}.")
    try:
        return _token_of(body)
    except ValueError as e:
        raise OptionError(f"The token makes no sense ({e}). {AGAIN}.") from e


def _token_of(body: bytes) -> Token:
    key, port, rest = body[:KEY_BYTES], int.from_bytes(body[KEY_BYTES : KEY_BYTES + 2], "big"), body[KEY_BYTES + 2 :]
    found: list[str] = []
    while rest:
        size = rest[0]
        if size not in {4, 16} or len(rest) <= size or len(found) == MAX_ADDRESSES:
            raise ValueError("an address is odd")
        found.append(str(ipaddress.ip_address(rest[1 : 1 + size])))
        rest = rest[1 + size :]
    if not found or not port or len(key) < KEY_BYTES:
        raise ValueError("it is too short")
    return Token(key=key, addresses=tuple(found), port=port)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(_PREFIX.encode() + body).digest()[:_CHECK_BYTES]


def _letters(data: bytes) -> str:
    count = -(-len(data) * 8 // 5)
    number = int.from_bytes(data, "big") << (count * 5 - len(data) * 8)
    return "".join(_LETTERS[number >> (5 * place) & 31] for place in reversed(range(count)))


def _bytes(letters: str) -> bytes:
    """The bytes that some letters stand for; b"" if they stand for none."""
    number = 0
    for letter in letters:
        if (value := _VALUES.get(letter)) is None:
            return b""
        number = number << 5 | value
    size = len(letters) * 5 // 8
    spare = len(letters) * 5 - size * 8
    if spare >= 5 or number & ((1 << spare) - 1):
        return b""
    return (number >> spare).to_bytes(size, "big")
