"""A cache bounded by bytes: the value that was not used for longest goes first."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """Keeps values while their bytes fit into `limit`; safe to use from several threads.

    Example:
        >>> cache: Cache[str] = Cache(10)
        >>> cache.put("a", "first", 6)
        'first'
        >>> cache.put("b", "second", 6)
        'second'
        >>> cache.get("a") is None, cache.bytes
        (True, 6)
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value, which now is the most recently used, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> Value:
        """Keeps a value of `size` bytes and hands it back; one larger than the limit is handed back only."""
        with self._lock:
            self._drop(key)
            if size <= self.limit:
                self._kept[key] = (value, size)
                self.bytes += size
            while self.bytes > self.limit:
                self._drop(next(iter(self._kept)))
        return value

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def _drop(self, key: Hashable) -> None:
        _, size = self._kept.pop(key, (None, 0))
        self.bytes -= size
