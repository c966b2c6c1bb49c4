import threading

from hypothesis import given
from hypothesis import strategies as st

from pixelis.tools.cache import Cache


@given(st.integers(0, 30), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=60))
def test_it_never_holds_more_than_its_limit(limit: int, puts: list[tuple[int, int]]) -> None:
    cache: Cache[tuple[int, int]] = Cache(limit)
    for key, size in puts:
        assert cache.put(key, (key, size), size) == (key, size)
        assert cache.bytes <= limit
        assert cache.get(key) == ((key, size) if size <= limit else None)
    assert cache.bytes == sum(value[1] for k in range(6) if (value := cache.get(k)) is not None)


def test_the_value_unused_for_longest_goes_first() -> None:
    cache: Cache[str] = Cache(3)
    for key in "abc":
        cache.put(key, key, 1)
    cache.get("a")
    cache.put("d", "d", 1)
    assert [key for key in "abcd" if key in cache] == ["a", "c", "d"] and len(cache) == 3


def test_a_value_put_again_counts_once() -> None:
    cache: Cache[str] = Cache(10)
    for size in (8, 3, 9):
        cache.put("a", "x", size)
    assert cache.bytes == 9 and len(cache) == 1
    cache.put("a", "too large", 11)  # what was kept under the key is no longer true
    assert cache.get("a") is None and cache.bytes == 0


def test_threads_may_share_it() -> None:
    cache: Cache[int] = Cache(100)

    def work(seed: int) -> None:
        for i in range(3000):
            cache.put((seed + i) % 37, i, i % 23)
            cache.get((seed * i) % 37)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 <= cache.bytes <= 100 and cache.bytes == sum(size for _, size in cache._kept.values())
