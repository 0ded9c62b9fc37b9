"""Where the ranks of a round write: one folder a round, every byte of every rank, and torch's filtered copies.

Runs in: the supervisor.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from string import Template
from typing import IO, Any

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

from nb_elastic import opening
from nb_elastic.errors import LaunchError
from nb_elastic.model_options import LaunchOptions
from nb_elastic.rundir import READ_BYTES, RankDir, RunDir

ENTRY_POINT_GROUP = "torchrun.logs_specs"


class RunLogs(LogsSpecs):
    """LogsSpecs of a run folder: ``round_<n>/<local_rank>/``, a new round for each forming of the group.

    torch's own deletes the logs of a running attempt when the group re-forms; here nothing is ever deleted.

    Args:
        node: adds the level ``node_<k>/``, or None where the run has one node.
        extra: a user's own LogsSpecs; at each file it names, a link to ours is made.
    """

    def __init__(self, run: RunDir, *, node: int | None, extra: LogsSpecs | None = None) -> None:
        super().__init__(log_dir=str(run.path))
        self._run = run
        self._node = node
        self._extra = extra
        self._round = 0

    @property
    def root_log_dir(self) -> str:
        """See base class."""
        return str(self._run.path)

    @property
    def round_dir(self) -> Path:
        """Folder of the present round."""
        return self._run.round(self._round, node=self._node)

    def begin(self, round_number: int) -> None:
        """The next ``reify`` is for this round."""
        self._round = round_number

    def rank(self, local_rank: int) -> RankDir:
        """Folder of a rank of the present round."""
        return self._run.rank(self._round, local_rank, node=self._node)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Make the round's folders and tell each rank its error file.

        Raises:
            LaunchError: if a folder can't be made.
        """
        try:
            for folder in [self.round_dir.parent, self.round_dir, *(self.rank(r).path for r in envs)]:
                folder.mkdir(mode=0o700, exist_ok=True)
                folder.chmod(0o700)
        except OSError as e:
            raise LaunchError(
                f"The folder {e.filename} can't be made: {e.strerror}. Choose another with --log-dir or NB_ELASTIC_HOME."
            ) from e
        told = self._extra.reify({r: dict(env) for r, env in envs.items()}) if self._extra else None
        errors = {r: str(self.rank(r).path / "error.json") for r in envs}
        for local_rank, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = errors[local_rank]
        if told is not None:
            for local_rank in envs:
                _link(told.stdouts.get(local_rank, ""), self.rank(local_rank).stdout)
                _link(told.stderrs.get(local_rank, ""), self.rank(local_rank).stderr)
        values: dict[str, Any] = {
            "stdouts": {r: str(self.rank(r).stdout) for r in envs},
            "stderrs": {r: str(self.rank(r).stderr) for r in envs},
            "error_files": errors,
            "filtered_stdout": str(self.round_dir / "filtered_stdout.log"),
            "filtered_stderr": str(self.round_dir / "filtered_stderr.log"),
        }
        return LogsDest(**{f.name: values[f.name] for f in fields(LogsDest) if f.name in values})


def load_specs(name: str | None) -> LogsSpecs | None:
    """Make the LogsSpecs that ``--logs-specs`` names, from torchrun's entry points.

    Raises:
        LaunchError: if there is none of this name, or it can't be made.
    """
    if not name:
        return None
    found = list(metadata.entry_points(group=ENTRY_POINT_GROUP))
    for point in found:
        if point.name == name:
            try:
                made = point.load()()
            except Exception as e:  # foreign code
                raise LaunchError(f"--logs-specs {name} ({point.value}) can't be made: {type(e).__name__}: {e}") from e
            if isinstance(made, LogsSpecs):
                return made
            raise LaunchError(f"--logs-specs {name} ({point.value}) is no LogsSpecs.")
    known = ", ".join(sorted({p.name for p in found})) or "none"
    raise LaunchError(f"--logs-specs {name}: no package offers it (entry points {ENTRY_POINT_GROUP}: {known}).")


def _link(wanted: str, target: Path) -> None:
    """Make ``wanted`` a link to our file, so that no byte is written twice or lost."""
    if not wanted or wanted == os.devnull or Path(wanted) == target:
        return
    path = Path(wanted)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.is_file():
            path.unlink()
        path.symlink_to(target)
    except OSError as e:
        raise LaunchError(f"--logs-specs names {wanted}, which can't be made: {e.strerror}.") from e


class FilteredLog:
    """One file with the lines of several ranks that hold any of some texts, as torchrun's ``--duplicate-*-filters``.

    Args:
        sources: local rank -> log file to follow.
        prefixes: local rank -> what stands before each of its lines.
    """

    def __init__(
        self, path: Path, *, sources: Mapping[int, str], filters: Sequence[str], prefixes: Mapping[int, str]
    ) -> None:
        self._filters = [f.encode() for f in filters]
        self._sources = sources
        self._prefixes = {r: p.encode() for r, p in prefixes.items()}
        self._offsets = dict.fromkeys(sources, 0)
        self._rests = dict.fromkeys(sources, b"")
        self._out: IO[bytes] = open(opening.to_append(path), "ab", buffering=0)  # noqa: SIM115

    def pump(self, *, is_last: bool = False) -> None:
        """Copy what came since the last call; at the last one, unfinished lines, too."""
        for local_rank, source in self._sources.items():
            lines = self._read(local_rank, source)
            if is_last and self._rests[local_rank]:
                lines.append(self._rests[local_rank])
                self._rests[local_rank] = b""
            kept = [
                self._prefixes[local_rank] + line + b"\n" for line in lines if any(f in line for f in self._filters)
            ]
            if kept:
                with contextlib.suppress(
                    OSError
                ):  # a full disk: the ranks' own logs tell it, and a copy must end no run
                    self._out.write(b"".join(kept))

    def close(self) -> None:
        """Copy the rest and close."""
        self.pump(is_last=True)
        self._out.close()

    def _read(self, local_rank: int, source: str) -> list[bytes]:
        lines: list[bytes] = []
        try:
            fd = opening.to_read(Path(source))
        except OSError:
            return lines
        try:
            while data := os.pread(fd, READ_BYTES, self._offsets[local_rank]):
                self._offsets[local_rank] += len(data)
                *whole, self._rests[local_rank] = (self._rests[local_rank] + data).split(b"\n")
                lines += whole
        finally:
            os.close(fd)
        return lines


def open_filtered(
    options: LaunchOptions,
    folder: Path,
    ranks: Mapping[int, int],
    *,
    stdouts: Mapping[int, str],
    stderrs: Mapping[int, str],
) -> list[FilteredLog]:
    """Open the filtered logs of a round that ``--duplicate-stdout-filters`` and its twin ask for.

    Args:
        ranks: local rank -> global rank.
    """
    template = Template(options.log_line_prefix_template or "[${role_name}${local_rank}]:")  # torchrun's default
    prefixes = {
        local: template.safe_substitute(role_name=options.role, rank=rank, local_rank=local)
        for local, rank in ranks.items()
    }
    wanted = (
        ("filtered_stdout.log", options.duplicate_stdout_filters, stdouts),
        ("filtered_stderr.log", options.duplicate_stderr_filters, stderrs),
    )
    return [
        FilteredLog(folder / name, sources=sources, filters=filters, prefixes=prefixes)
        for name, filters, sources in wanted
        if filters
    ]
