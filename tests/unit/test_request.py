"""What a dry run tells of a launch.

A user would lose: word of a variable that stays in the notebook though the cell mentions it.
"""

from nb_elastic.model import Entrypoint
from nb_elastic.model_options import LaunchOptions
from nb_elastic.payload import Payload
from nb_elastic.request import Request, dry_run_text, name_of


def told(**kwargs):
    packed = Payload(data=b"x", **kwargs)
    entry = Entrypoint(kind="cell", target="Cell In[1]")
    return dry_run_text(Request(entrypoint=entry, options=LaunchOptions(nproc_per_node="1"), payload=packed))


def test_a_dry_run_tells_what_stays_behind():
    lines = told(left_out=("loss", "model")).splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("Left behind"))
    assert lines[at + 1 : at + 3] == ["  loss", "  model"]
    assert "Left behind" not in told()


def test_a_callable_with_odd_attributes_has_a_name():
    class Odd(dict):
        __getattr__ = dict.__getitem__

    class Any:
        def __getattr__(self, name):
            return self

    assert [name_of(Odd()), name_of(Any()), name_of(told), name_of("m:f")] == ["Odd", "Any", "told", "m:f"]
