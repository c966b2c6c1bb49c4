"""Errors that a user's input can cause: told in one line, without a traceback. By name, so that nothing is imported."""

USER_ERRORS = frozenset(
    {
        "pixelis.actors.liveness.BlindPolicy",
        "pixelis.cluster.config.ConfigError",
        "pixelis.memory.checkpoint.CheckpointError",
        "pixelis.memory.codec.CodecError",
        "pixelis.memory.log.LogError",
        "pixelis.memory.model.ModelError",
        "pixelis.tools.call.ToolFailure",
        "pixelis.tools.decode.MediaError",
    }
)


def is_users(error: BaseException) -> bool:
    """Whether this is such an error."""
    return any(f"{kind.__module__}.{kind.__name__}" in USER_ERRORS for kind in type(error).__mro__)
