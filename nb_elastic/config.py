"""``%config Elastic``: the notebook's own defaults for launch options, made from the table.

Runs in: the kernel, or a terminal IPython.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traitlets import Bool, TraitError, TraitType
from traitlets.config import Configurable

from nb_elastic import option_help
from nb_elastic.option_table import FLAGS, Flag

if TYPE_CHECKING:
    _Trait = TraitType[Any, Any]
else:
    _Trait = TraitType


class OptionTrait(_Trait):
    """One option as a trait; None means that it is not set here.

    Args:
        flag: its row of the table, which also reads its value.
    """

    allow_none = True
    default_value = None

    def __init__(self, flag: Flag) -> None:
        super().__init__(default_value=None, allow_none=True, help=option_help.option_help(flag))
        self._flag = flag
        self.info_text = f"a value of {flag.dashed}"

    def validate(self, obj: Any, value: Any) -> Any:
        """Read a value as the flag would be read.

        Raises:
            TraitError: naming option and value.
        """
        del obj
        try:
            return self._flag.read(value)
        except ValueError as e:
            raise TraitError(f"Elastic.{self._flag.name} = {value!r} makes no sense: {e}.") from None

    def from_string(self, s: str) -> Any:
        """Read text as it stands on a command line."""
        return s


class _Base(Configurable):
    """Defaults of this notebook for every launch; a flag overrides them, and they override the environment."""

    def as_mapping(self) -> dict[str, Any]:
        """Values that are set, by the options' Python names."""
        found = {flag.name: getattr(self, flag.name, None) for flag in FLAGS}
        return {name: value for name, value in found.items() if value is not None}


if TYPE_CHECKING:
    Elastic = _Base
else:
    Elastic = type(
        "Elastic",
        (_Base,),
        {
            "__doc__": _Base.__doc__,
            "__module__": __name__,
            **{flag.name: OptionTrait(flag).tag(config=True) for flag in FLAGS if flag.is_in_version},
            "standby": Bool(True, help="After a run, keep a group like it waiting for the next launch.").tag(
                config=True
            ),
        },
    )
