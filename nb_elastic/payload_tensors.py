"""How tensors, arrays and views of memory leave a process without being copied into the pickle.

Runs in: the kernel or command line (which never imports torch: it looks at what the notebook imported) and
the worker.
"""

from __future__ import annotations

import ctypes
import importlib
import pickle
from typing import Any

from nb_elastic.payload_file import OUT_OF_BAND_BYTES


def is_on_device(tensor: Any) -> bool:
    """True for a tensor or storage whose memory isn't the CPU's; asks the object, never the device."""
    return getattr(getattr(tensor, "device", None), "type", "cpu") not in {"cpu", "meta"}


def reduce_storage(storage: Any) -> Any:
    """Reduce an untyped CPU storage to a buffer over its own memory; NotImplemented where that can't be."""
    size = storage.nbytes()
    if not size or storage.device.type != "cpu" or size < OUT_OF_BAND_BYTES:
        if storage.device.type != "cpu":
            return NotImplemented
        data = bytes((ctypes.c_char * size).from_address(storage.data_ptr())) if size else b""
        return _storage, (data,)
    kind: Any = type("Memory", (ctypes.c_char * size,), {})
    memory = kind.from_address(storage.data_ptr())
    memory.storage = storage  # the memory lives as long as a view of it
    return _storage, (pickle.PickleBuffer(memory),)


def reduce_typed_storage(storage: Any, seen: dict[int, Any]) -> Any:
    """Reduce a typed storage to its untyped one, the same object for every view of the same memory."""
    untyped = storage._untyped_storage  # noqa: SLF001  torch's pickles name typed storages, and this is all there is
    untyped = seen.setdefault(untyped._cdata, untyped)  # noqa: SLF001  as above
    return _typed_storage, (untyped, storage.dtype)


def reduce_array(array: Any) -> Any:
    """Reduce a big array that is neither C nor Fortran contiguous through a contiguous copy."""
    if array.nbytes < OUT_OF_BAND_BYTES or array.flags.forc or array.dtype.hasobject:
        return NotImplemented
    return array.copy().__reduce_ex__(5)


def reduce_memoryview(view: memoryview) -> Any:
    """Reduce a memoryview to one over a copy of its memory, which all ranks share.

    A PickleBuffer over the view itself would crash CPython when the garbage collector clears both
    ("memoryview has 1 exported buffer").
    """
    data = view.tobytes() if view.readonly else bytearray(view.tobytes())
    return _view, (pickle.PickleBuffer(data), view.format, list(view.shape or ()))


def is_compiled(function: Any) -> bool:
    """True for what ``torch.compile`` or ``torch.compiler.disable`` made of a function."""
    return "_torchdynamo_orig_callable" in vars(function)


def reduce_compiled(function: Any) -> Any:
    """Reduce a compiled function to the one it was made of; the rank compiles that anew, with the same settings."""
    original = vars(function)["_torchdynamo_orig_callable"]
    if vars(function).get("_torchdynamo_disable"):
        return _disable, (original,)
    free = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
    context = free["self"].cell_contents if "self" in free else None
    backend: Any = getattr(context, "callback", None)
    while hasattr(backend, "_torchdynamo_orig_backend"):
        backend = backend._torchdynamo_orig_backend  # noqa: SLF001  a compiled function keeps its settings nowhere else
    settings: dict[str, Any] = {
        "dynamic": getattr(context, "_dynamic", None),
        "fullgraph": getattr(context, "fullgraph", False),
    }
    if type(backend).__name__ == "_TorchCompileInductorWrapper":
        settings |= {"backend": "inductor", "options": dict(backend.config) or None}
    elif backend is not None:
        settings["backend"] = getattr(backend, "compiler_fn", backend)
    return _compile, (original, settings)


def _storage(data: Any) -> Any:
    torch = importlib.import_module("torch")
    if memoryview(data).nbytes == 0:
        return torch.UntypedStorage(0)
    if isinstance(data, memoryview) and not data.readonly:
        return torch.frombuffer(data, dtype=torch.uint8).untyped_storage()
    # a storage of its own: one that can be resized
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).clone().untyped_storage()


def _typed_storage(untyped: Any, dtype: Any) -> Any:
    torch = importlib.import_module("torch")
    return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


def _view(data: Any, form: str, shape: list[int]) -> memoryview:
    view = memoryview(data)
    view = view if view.format == "B" and view.ndim == 1 else view.cast("B")
    return view.cast(form, shape) if shape and (form != "B" or len(shape) != 1) else view  # type: ignore[call-overload]


def _compile(function: Any, settings: dict[str, Any]) -> Any:
    return importlib.import_module("torch").compile(function, **settings)


def _disable(function: Any) -> Any:
    return importlib.import_module("torch").compiler.disable(function)
