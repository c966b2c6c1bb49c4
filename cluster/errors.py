"""Errors that a user's input or disk can cause: told in one line, without a traceback. By name, so that nothing is imported."""

import errno

USER_ERRORS = frozenset(
    {
        "pixelis.actors.foreign.Unmapped",
        "pixelis.actors.liveness.BlindPolicy",
        "pixelis.actors.questions.TaskError",
        "pixelis.actors.shift.ShiftError",
        "pixelis.actors.stream.StreamError",
        "pixelis.cluster.config.ConfigError",
        "pixelis.cluster.errors.BusyError",
        "pixelis.cluster.errors.UsageError",
        "pixelis.cluster.submit.ClusterError",
        "pixelis.learners.corridor.CorridorError",
        "pixelis.memory.checkpoint.CheckpointError",
        "pixelis.memory.codec.CodecError",
        "pixelis.memory.journal.JournalError",
        "pixelis.memory.segment.LogError",
        "pixelis.memory.model.ModelError",
        "pixelis.tools.call.ToolFailure",
        "pixelis.tools.decode.MediaError",
        "pixelis.tools.draw.DrawError",
    }
)


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""A full disk, a full quota, a file beyond the limit of this process."""


class UsageError(ValueError):
    """A command line that cannot be meant."""


class BusyError(RuntimeError):
    """A machine that has too much else to do."""


def is_users(error: BaseException) -> bool:
    """Whether this is such an error: one of ours, a file that is not there, or a disk without room."""
    error = _cause(error)
    if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError) or _no_room(error):
        return True
    return any(f"{kind.__module__}.{kind.__name__}" in USER_ERRORS for kind in type(error).__mro__)


def told(error: BaseException) -> str:
    """Such an error in one line.

    Example:
        >>> told(FileNotFoundError(2, "No such file or directory", "x.png"))
        "[Errno 2] No such file or directory: 'x.png'"
    """
    error = _cause(error)
    line = " ".join(str(error).split("\n"))
    if _no_room(error):
        return f"{line}; what was written before is whole: make room, then go on (training: with --resume)"
    return line


def _no_room(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _cause(error: BaseException) -> BaseException:
    """The error itself, where Ray has wrapped it on its way from another process; Ray's text holds the traceback."""
    cause = getattr(error, "cause", None)
    return _cause(cause) if isinstance(cause, BaseException) else error
