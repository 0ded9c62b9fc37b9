"""Objects that act when they are looked at: proxies of connections, lazy modules, metaclasses with a will of their own."""

import types

LOOKED_AT = []


class Proxy:
    """Connects when it is first asked for anything."""

    def __getattribute__(self, name):
        LOOKED_AT.append(name)
        raise ConnectionError("the server is down")


class Meta(type):
    def __getattribute__(cls, name):
        raise RuntimeError("not now")


class Odd(metaclass=Meta):
    pass


class LazyModule(types.ModuleType):
    """Loads when it is first asked for anything."""

    def __getattribute__(self, name):
        LOOKED_AT.append(name)
        raise ImportError("half of it is missing")
