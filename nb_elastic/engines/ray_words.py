"""What Ray says when it does not do what is asked, in a line.

Runs in: the driver.
"""

from __future__ import annotations

import os


def _chain(error: BaseException) -> list[str]:
    found: list[str] = []
    one: BaseException | None = error
    while one is not None:
        found.append(f"{type(one).__name__}: {one}")
        one = one.__cause__ or one.__context__
    return found


def is_refusal(error: BaseException) -> bool:
    """True if the cluster has heard us, and wants a token that we don't have."""
    return any(word in text for text in _chain(error) for word in ("AuthenticationError", "InvalidAuthToken"))


def words(error: BaseException) -> str:
    """What Ray says, in one line."""
    if is_refusal(error):
        if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
            return "it wants another token than the kernel's: see RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH and ~/.ray/auth_token."
        return "it wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, for the kernel."
    lines = [line.strip() for line in "\n".join(_chain(error)).splitlines()]
    reason = next((line for line in lines if "died because" in line), "")
    text = reason or " ".join(str(error).partition("Traceback (most recent call last)")[0].split())
    return (text if len(text) < 400 else text[:400] + "...") or type(error).__name__
