"""Programs that can't be loaded, or load what can't be."""

import importlib
import os
import pickle
import sys
import types


def module_is_missing():
    import no_such_package_of_mine  # noqa: F401


def name_is_missing_in_a_module():
    from json import no_such_name  # noqa: F401


def module_has_wrong_syntax():
    importlib.import_module("tests.programs.syntax_is_wrong")


def import_error_is_wrapped():
    try:
        import no_such_package_of_mine  # noqa: F401
    except ImportError as e:
        raise RuntimeError("pip install no_such_package_of_mine") from e


def class_is_missing_on_load():
    module = types.ModuleType("gone_module")
    module.Thing = type("Thing", (), {"__module__": "gone_module"})
    sys.modules["gone_module"] = module
    data = pickle.dumps(module.Thing())
    del module.Thing
    return pickle.loads(data)


def file_is_no_pickle():
    return pickle.loads(b"\x0b this is no pickle")


def cannot_pickle_a_lock():
    import threading

    return pickle.dumps({"lock": threading.Lock()})


def explodes():
    raise ValueError("made on another machine")


class ExplodesOnLoad:
    """Pickles well; whoever loads it gets an exception."""

    def __reduce__(self):
        return explodes, ()


def use(thing):
    return os.getpid(), thing
