"""Where a learned model computes: one caller at a time, without gradients, its failures typed."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pixelis.tools.call import ToolFailure
from pixelis.tools.media import MediaError

Item = TypeVar("Item")
Found = TypeVar("Found")


class Device:
    """A model's place, "cpu" or "cuda:0". On CUDA the model computes in bfloat16 where autocast finds it safe.

    Example: with Device("cpu").turn(until): features = network(pixels)
    """

    def __init__(self, name: str = "cpu") -> None:
        self.name = name
        self._lock = threading.Lock()

    @property
    def precision(self) -> str:
        """The mark of this place in a tool's id: results in another precision are other results."""
        return "-bf16" if self.name.startswith("cuda") else ""

    @contextmanager
    def turn(self, until: float) -> Iterator[None]:
        """The caller's turn; raises ToolFailure(infra): timeout past monotonic `until`, out_of_memory."""
        import torch

        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise ToolFailure("infra", "timeout", f"the model on {self.name} was busy until the deadline")
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.inference_mode())
                if self.precision:
                    stack.enter_context(torch.autocast("cuda", torch.bfloat16))
                yield
        except (MemoryError, RuntimeError) as error:
            if not _short_of_memory(error):
                raise
            if self.precision:
                torch.cuda.empty_cache()
            raise ToolFailure("infra", "out_of_memory", str(error).splitlines()[0]) from error
        finally:
            self._lock.release()


def _short_of_memory(error: Exception) -> bool:
    import torch

    # What fails on the processor is a bare RuntimeError: its text is all there is to know it by.
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def in_time(until: float, told: str) -> None:
    """Raises ToolFailure(infra, timeout) past monotonic `until`."""
    if time.monotonic() > until:
        raise ToolFailure("infra", "timeout", told)


def finite(value: Any, told: str) -> Any:
    """A tensor or array as it came; raises ToolFailure(infra, bad_result) when a number in it is NaN or infinite."""
    import torch

    if not bool(torch.isfinite(torch.as_tensor(value)).all()):
        raise ToolFailure("infra", "bad_result", f"{told} is not finite")
    return value


def each(work: Callable[[Item], Found], items: Iterable[Item]) -> list[Found | ToolFailure]:
    """work(item) for all items; one that fails has its failure in its place."""
    done: list[Found | ToolFailure] = []
    for item in items:
        try:
            done.append(work(item))
        except ToolFailure as error:
            done.append(error)
        except MediaError as error:
            done.append(ToolFailure("infra", "bad_media", str(error)))
    return done


def only(found: list[Found | ToolFailure]) -> Found:
    """The one answer of a batch of one; raises it when it is a failure."""
    (answer,) = found
    if isinstance(answer, ToolFailure):
        raise answer
    return answer


def file_hash(*paths: Path) -> str:
    """The first 12 hex digits of a file's sha256; of several files, of their sha256 sums (32 bytes each) in a row."""
    sums = []
    for path in paths:
        with open(path, "rb") as file:
            sums.append(hashlib.file_digest(file, "sha256"))
    whole = sums[0] if len(sums) == 1 else hashlib.sha256(b"".join(one.digest() for one in sums))
    return whole.hexdigest()[:12]
