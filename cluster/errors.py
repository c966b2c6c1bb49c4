"""Errors that a user's input can cause: told in one line, without a traceback. By name, so that nothing is imported."""

USER_ERRORS = frozenset(
    {
        "pixelis.actors.liveness.BlindPolicy",
        "pixelis.actors.shift.ShiftError",
        "pixelis.cluster.config.ConfigError",
        "pixelis.cluster.errors.UsageError",
        "pixelis.memory.checkpoint.CheckpointError",
        "pixelis.memory.codec.CodecError",
        "pixelis.memory.log.LogError",
        "pixelis.memory.model.ModelError",
        "pixelis.tools.call.ToolFailure",
        "pixelis.tools.decode.MediaError",
    }
)


class UsageError(ValueError):
    """A command line that cannot be meant."""


def is_users(error: BaseException) -> bool:
    """Whether this is such an error: one of ours, or a file that is not there."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
        return True
    return any(f"{kind.__module__}.{kind.__name__}" in USER_ERRORS for kind in type(error).__mro__)
