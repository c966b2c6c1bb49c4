"""Runs in a folder of their own, of which nothing stays."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

MARK = "PIXELIS_TEST_MODULE"


@pytest.fixture(scope="module", autouse=True)
def leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a module has started ends with it, even when a test failed: a run that goes on would starve the next module.

    Processes are known by a variable that they inherit, for those whose parent was killed are nobody's children.
    """
    mark = f"{request.module.__name__}-{os.getpid()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                os.kill(int(folder.name), signal.SIGKILL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory for a module: runs/ goes there."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
