"""What a rank gives back: its return value and pulled variables, in one file each.

Runs in: the worker, which writes it, and the kernel or command line, which reads it.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nb_elastic import payload_culprit, payload_file, payload_tensors
from nb_elastic import payload_look as look
from nb_elastic.errors import PayloadError
from nb_elastic.frames import message_of
from nb_elastic.payload_file import PickleStream
from nb_elastic.payload_pickler import Loader, NotebookPickler, main_namespace
from nb_elastic.payload_refusals import Refusal

SHIPPED = "__elastic_shipped__"
"""Name in the rank's ``__main__`` of what came from the notebook: results refer to it by name."""


class ResultPickler(NotebookPickler):
    """Pickles what a rank gives back: notebook classes by reference, memory of devices as the CPU's.

    Args:
        shipped: classes and functions that came with the payload, by top-level name.
    """

    def __init__(self, stream: PickleStream, *, shipped: Mapping[str, Any]) -> None:
        super().__init__(stream, namespace=main_namespace(), labels={})
        self._shipped = shipped
        # functions born in the rank get a namespace of their own: the notebook's is never changed
        self.globals_ref.clear()

    def _reference(self, obj: Any) -> str | None:
        """The name under which the notebook has this very class or function, or None."""
        if look.module_of(obj) != "__main__":
            return None
        name = getattr(obj, "__qualname__", "")
        for found in (self._shipped, main_namespace()):
            top, *rest = name.split(".")
            here = found.get(top)
            for part in rest:
                here = look.member(here, part)
            if here is not obj:
                return None
        return str(name)

    def _class(self, cls: type) -> Any:
        return self._reference(cls) or super()._class(cls)

    def _function(self, function: types.FunctionType) -> Any:
        return self._reference(function) or super()._function(function)

    def _cached(self, cached: Any) -> Any:
        return self._reference(cached) or super()._cached(cached)

    def _new_type(self, kind: Any) -> Any:
        return self._reference(kind) or super()._new_type(kind)

    def _wrapped_model(self, _model: Any) -> Any:
        raise Refusal(
            "a DistributedDataParallel model belongs to the process group of its ranks",
            "return the model itself, model.module, or its state_dict()",
            is_for_results=True,
        )

    def _tensor(self, tensor: Any) -> Any:  # noqa: ARG002 - its storage is moved, so that views stay views
        return NotImplemented

    def _device(self, obj: Any) -> Any:
        return payload_tensors.reduce_storage(obj.cpu())


def dump_result(value: Any, path: Path) -> int:
    """Pickle a rank's return value into a file; notebook classes by reference, tensors on the CPU.

    Returns:
        Size of the file in bytes.

    Raises:
        PayloadError: if it can't be pickled; its ``path`` says what.
        OSError: if the disk is full.
    """
    return _dump_back(value, path, name="result")


def dump_values(values: dict[str, Any], path: Path) -> int:
    """Pickle variables of a rank (``--pull``) as ``dump_result`` does; ``load_result`` gives the dict back."""
    return _dump_back(values, path, name="pulled")


def load_result(path: Path) -> Any:
    """Load what ``dump_result`` or ``dump_values`` wrote.

    Raises:
        PayloadError: if it is absent, torn, not this user's, or needs a class that the notebook lacks.
    """
    packed = payload_file.read_file(path)
    try:
        return Loader(payload_file.SegmentReader(packed.segments), buffers=packed.buffers).load()
    except (Exception, SystemExit) as e:  # border: unpickling runs constructors of any class, and one may call sys.exit
        way_out = (
            "It needs more memory than there is: return less, or save it to a file and return the path."
            if isinstance(e, MemoryError)
            else "Its classes must be defined or importable where it is read; else return plain data or a state_dict()."
        )
        text = f"{path} can't be loaded here ({type(e).__name__}: {message_of(e)[:300]}). {way_out}"
        raise PayloadError(text, path=str(path)) from e


def _dump_back(value: Any, path: Path, *, name: str) -> int:
    stream = payload_file.PickleStream()
    main = sys.modules["__main__"]
    shipped = vars(main).get(SHIPPED, {})
    try:
        ResultPickler(stream, shipped=shipped).dump(value)
    except Exception as e:  # border: pickling runs code of the user's classes, which may raise anything

        def trial(obj: Any, known: frozenset[int]) -> BaseException | None:
            return _try_result(obj, known, shipped)

        way, reason = payload_culprit.find(value, name, trial)
        text = f"{way} can't travel back to the notebook. {payload_culprit.explain(reason or e, is_result=True)}"
        raise PayloadError(text, path=way) from e
    return payload_file.write_file(path, {"kind": name}, stream)


def _try_result(obj: Any, known: frozenset[int], shipped: Mapping[str, Any]) -> BaseException | None:
    class Trial(ResultPickler):
        def persistent_id(self, item: Any) -> Any:
            return "known" if id(item) in known else None

    try:
        Trial(payload_culprit.Nowhere(), shipped=shipped).dump(obj)
    except Exception as e:  # noqa: BLE001  border: as above
        return e
    return None
