"""The errors nb_elastic raises, as one small tree.

Runs in: every process.

    ElasticError
    ├── OptionError            an option's value makes no sense (nothing was started)
    ├── PayloadError           something can't be shipped to, or back from, a rank
    ├── LaunchError            the run could not start
    │   ├── EngineError        the engine could not place a supervisor
    │   └── RendezvousError    the nodes did not find each other
    ├── WorkerFailedError      ranks failed; shows the root cause rank's own traceback
    ├── RunStoppedError        somebody stopped the run
    ├── RunLostError           the supervisor vanished without a last word
    └── DescriptorsError       this process has no file descriptor left to look with; nothing is known of the run
"""

from __future__ import annotations


class ElasticError(Exception):
    """Base of every error nb_elastic raises on purpose.

    The message says what happened, where the evidence lies, and what to do next.
    """

    def _render_traceback_(self) -> list[str]:
        """Show the message alone in IPython: the frames of the launcher tell a user nothing."""
        return str(self).splitlines() or [type(self).__name__]


class OptionError(ElasticError, ValueError):
    """An option has a value that makes no sense here. Nothing was started."""


class PayloadError(ElasticError):
    """Something can't travel between the notebook and a rank.

    Args:
        message: what happened and what to do, one paragraph.
        path: the way to the culprit, as in ``train -> closure 'ds' -> _lock (_thread.lock)``.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class LaunchError(ElasticError):
    """The run could not start."""


class EngineError(LaunchError):
    """The engine could not place a supervisor on a node."""


class RendezvousError(LaunchError):
    """The nodes of the run did not find each other."""


class WorkerFailedError(ElasticError):
    """One or more ranks failed.

    Attributes:
        run_id: the run.
        rank: global rank of the root cause, or None where no rank could be named.
    """

    def __init__(self, message: str, *, run_id: str = "", rank: int | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.rank = rank


class RunStoppedError(ElasticError):
    """The run was stopped before its ranks ended by themselves."""

    def __init__(self, message: str, *, run_id: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id


class RunLostError(ElasticError):
    """The run's supervisor vanished without a last word in the journal."""

    def __init__(self, message: str, *, run_id: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id


class DescriptorsError(ElasticError):
    """This process has no file descriptor left to look at a run with. How the run fares is another matter."""

    @classmethod
    def of(cls, what: str) -> DescriptorsError:
        """Make one.

        Args:
            what: what could not be done, as the beginning of a sentence.
        """
        return cls(
            f"{what} for want of file descriptors: too many files are open. "
            "A higher `ulimit -n`, or fewer open files in this process, would help."
        )
