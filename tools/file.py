"""Files: the bytes of one that a user names, read only when it is a plain file of a decent size."""

import os
import re
import stat
from pathlib import Path

from pixelis.tools.decode import MediaError
from pixelis.tools.limits import MediaLimits

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:")
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def read_file(path: str | Path, limits: MediaLimits) -> bytes:
    """All bytes of a plain file. MediaError for anything else, before it is opened; OSError when it cannot be read.

    A link is not followed: in a folder that came from elsewhere it may point at any file of this machine, whose bytes
    would be kept with the run. Nothing is fetched. Devices and pipes are never opened: opening alone can block or act.
    """
    try:
        found = os.lstat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        if _URL.match(str(path)):
            raise MediaError(f"{str(path)[:200]}: an address, and nothing is fetched: download it and name the file") from error
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise MediaError(f"{str(path)[:200]!r}: not the name of a file: {error.args[-1]}") from error
    if stat.S_ISLNK(found.st_mode):
        raise MediaError(f"{path}: a link, which is not followed: name the file itself, {os.path.realpath(path)}")
    if not stat.S_ISREG(found.st_mode):
        what = next((words for test, words in _KINDS if test(found.st_mode)), "a device")
        raise MediaError(f"{path}: {what}, not a file: name an image or a clip")
    return _read(Path(path), found, limits)


def _read(path: Path, expected: os.stat_result, limits: MediaLimits) -> bytes:
    """The bytes that the file has now, and no more: it may grow while it is read."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags), "rb") as file:
        size = os.fstat(file.fileno())
        if (size.st_ino, size.st_dev) != (expected.st_ino, expected.st_dev) or not stat.S_ISREG(size.st_mode):
            raise MediaError(f"{path}: changed while it was being opened")
        if wrong := limits.exceeded("bytes", size.st_size, f"{size.st_size} bytes"):
            raise MediaError(f"{path}: {wrong}")
        return file.read(size.st_size)
