"""What ``display`` and its kin are in a rank: they write to the rank's outputs, and the text form to its stdout.

Runs in: a worker, once it displays something. Objects are asked for their forms as IPython asks them, without importing
it; where the rank has a shell, that is asked, and told.
"""

from __future__ import annotations

import base64
import io
import sys
import traceback
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from nb_elastic.outputs import OWN

METHODS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "text/latex": "_repr_latex_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "application/json": "_repr_json_",
}
_CANARY = "_ipython_canary_method_should_not_exist_"  # whoever has it has everything, a mock say


class DisplayHandle:
    """What ``display(..., display_id=...)`` returns; ``update`` changes what is shown, ``display`` shows it again."""

    def __init__(self, display_id: str | None = None) -> None:
        self.display_id = display_id or uuid.uuid4().hex

    def __repr__(self) -> str:
        return f"<DisplayHandle display_id={self.display_id}>"

    def display(self, obj: Any, **options: Any) -> None:
        """Show an object under this id."""
        display(obj, display_id=self.display_id, **options)

    def update(self, obj: Any, **options: Any) -> None:
        """Show an object in the place of the one before."""
        display(obj, display_id=self.display_id, update=True, **options)


def display(
    *objects: Any,
    include: Collection[str] | None = None,
    exclude: Collection[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    transient: Mapping[str, Any] | None = None,
    display_id: str | bool | None = None,
    raw: bool = False,
    clear: bool = False,
    update: bool = False,
    **_options: Any,
) -> DisplayHandle | None:
    """Show objects, as IPython's function of this name.

    Args:
        include: MIME types to show, all where None.
        exclude: MIME types not to show.
        display_id: names what is shown, so that it can be updated; True makes a name.
        raw: the objects are MIME bundles already.
        clear: take away what was shown before.
        update: change what is shown under ``display_id``.

    Raises:
        TypeError: for an update without an id.
    """
    name = display_id if display_id is not None else (transient or {}).get("display_id")
    handle = DisplayHandle(name if isinstance(name, str) else None) if name else None
    if update and handle is None:
        raise TypeError("display_id required for update_display")
    if clear:
        clear_output(wait=True)
    for item in objects:
        data, more = (dict(item), {}) if raw else forms(item, include=include, exclude=exclude)
        if data:
            told = {"display_id": handle.display_id} if handle else {}
            publish_display_data(data, {**more, **(metadata or {})}, transient=told, update=update)
    return handle


def publish_display_data(
    data: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    *,
    transient: Mapping[str, Any] | None = None,
    update: bool = False,
    **_options: Any,
) -> None:
    """Show a MIME bundle; through the shell's publisher where there is one, which ``%%capture`` may have replaced."""
    if (shell := _shell()) is not None:
        shell.display_pub.publish(data=data, metadata=metadata, transient=transient, update=update)
    else:
        write(data, metadata, transient=transient, update=update)


def write(
    data: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    *,
    transient: Mapping[str, Any] | None = None,
    update: bool = False,
) -> None:
    """Write a MIME bundle to the rank's outputs, and, when it is new, its text to stdout: no face loses it."""
    if not update and "text/plain" in data:
        sys.stdout.write(f"{data['text/plain']}\n")
    display_id = (transient or {}).get("display_id") or ""
    OWN.show(data, metadata, display_id=str(display_id), is_update=update)


def clear_output(wait: bool = False) -> None:  # noqa: FBT001, FBT002  IPython's signature
    """Take away what this rank shows; its logs stay.

    Args:
        wait: until there is something new to show.
    """
    if (shell := _shell()) is not None:
        shell.display_pub.clear_output(wait)
    else:
        OWN.clear(is_later=wait)


def forms(
    item: Any, *, include: Collection[str] | None = None, exclude: Collection[str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The forms of an object by MIME type, and their metadata; none where it shows itself."""
    if _is_figure(item):
        png = base64.b64encode(_picture(item)).decode()
        return _chosen({"image/png": png, "text/plain": repr(item)}, include, exclude), {}
    if (shell := _shell()) is not None:
        data, metadata = shell.display_formatter.format(item, include=include, exclude=exclude)
        return dict(data), dict(metadata)
    data, metadata = {}, {}
    if not isinstance(item, type) and not hasattr(item, _CANARY):
        if (show := getattr(item, "_ipython_display_", None)) is not None and _ask(show) is not _FAILED:
            return {}, {}
        data, metadata = _bundle(item, include, exclude)
        for kind, name in METHODS.items():
            is_twice = kind == "image/jpeg" and "image/png" in data
            if kind not in data and not is_twice and (method := getattr(item, name, None)) is not None:
                _take(kind, _ask(method), data, metadata)
    if "text/plain" not in data:
        text = _ask(lambda: repr(item))
        data["text/plain"] = f"<{type(item).__name__} object>" if text is _FAILED else text
    return _chosen(data, include, exclude), metadata


_FAILED = object()


def _ask(method: Any, *args: Any, **options: Any) -> Any:
    """Call a method of a user's object; what it raises is shown, and the other forms go on."""
    try:
        return method(*args, **options)
    except Exception:  # noqa: BLE001  border: code of the user's object, which must not end the training
        traceback.print_exc()
        return _FAILED


def _bundle(item: Any, include: Any, exclude: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    method = getattr(item, "_repr_mimebundle_", None)
    found = None if method is None else _ask(method, include=include, exclude=exclude)
    if isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, Mapping) for part in found):
        return dict(found[0]), dict(found[1])
    return (dict(found) if isinstance(found, Mapping) else {}), {}


def _take(kind: str, found: Any, data: dict[str, Any], metadata: dict[str, Any]) -> None:
    if found is None or found is _FAILED:
        return
    if isinstance(found, tuple) and len(found) == 2:
        found, metadata[kind] = found
    data[kind] = found


def _chosen(data: dict[str, Any], include: Collection[str] | None, exclude: Collection[str] | None) -> dict[str, Any]:
    return {
        k: v for k, v in data.items() if (include is None or k in include) and (exclude is None or k not in exclude)
    }


def _picture(figure: Any) -> bytes:
    """A figure as PNG, cut to what is drawn."""
    out = io.BytesIO()
    colours = {"facecolor": figure.get_facecolor(), "edgecolor": figure.get_edgecolor()}
    figure.savefig(out, format="png", bbox_inches="tight", **colours)
    return out.getvalue()


def _is_figure(item: Any) -> bool:
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(item, module.Figure)


def _shell() -> Any:
    """The rank's shell, if it made one."""
    module = sys.modules.get("IPython.core.interactiveshell")
    kind = getattr(module, "InteractiveShell", None)
    return kind.instance() if kind is not None and kind.initialized() else None
