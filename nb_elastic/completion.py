"""Tab completion of launch options in IPython and its kernel.

Runs in: the kernel, or a terminal IPython.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

from nb_elastic import option_help

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

IDENTIFIER = "nb_elastic.options"


def install(ip: InteractiveShell) -> None:
    """Complete options after our magics; a second call changes nothing."""
    from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

    @context_matcher(identifier=IDENTIFIER, priority=50)  # type: ignore[untyped-decorator]
    def options_matcher(context: CompletionContext) -> dict[str, Any]:
        """Offer flags and their values, and nothing of Python's own beside them."""
        line = context.text_until_cursor.rpartition("\n")[2]
        found = option_help.complete(line)
        word = line.rpartition(" ")[2]
        # IPython's token may begin inside our word, as in --render=w: only what comes after is replaced.
        before = word[: len(word) - len(context.token)] if word.endswith(context.token) else ""
        completions = [SimpleCompletion(text=c.removeprefix(before), type="param") for c in found]
        if not option_help.is_target_next(line):
            return {"completions": completions, "suppress": bool(found), "ordered": True}
        # IPython itself completes no names after a magic, but it does files, which are left to it.
        functions = [n for n, v in ip.user_ns.items() if isinstance(v, FunctionType) and n.startswith(word or "\0")]
        completions += [SimpleCompletion(text=n, type="function") for n in sorted(functions)]
        return {"completions": completions, "suppress": False, "ordered": True}

    uninstall(ip)
    ip.Completer.custom_matchers.append(options_matcher)


def uninstall(ip: InteractiveShell) -> None:
    """Take the completion away again."""
    matchers = ip.Completer.custom_matchers
    matchers[:] = [m for m in matchers if getattr(m, "matcher_identifier", "") != IDENTIFIER]
