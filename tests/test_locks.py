from functools import partial
from threading import Event, Thread

import pytest

from qc._cache import LRUCache, picture_cache
from qc._locks import KeyedLocks
from tests.support.waiting import DEADLINE_S, wait_for_end


def together(*works):
    threads = [Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    wait_for_end(*threads)


def test_keyed_locks_serialise_one_key_only():
    turns, has_it, may_end = KeyedLocks(), Event(), Event()
    order = []

    def first():
        with turns.hold("a"):
            has_it.set()
            assert may_end.wait(DEADLINE_S)
            order.append("first")

    def second():
        assert has_it.wait(DEADLINE_S)
        with turns.hold("b"):
            order.append("other")
        may_end.set()
        with turns.hold("a"):
            order.append("second")

    together(first, second)
    assert order == ["other", "first", "second"]


def test_keyed_locks_at_once_limits_all_keys():
    turns, has_it, tries = KeyedLocks(at_once=1), Event(), Event()
    order = []

    def first():
        with turns.hold("a"):
            has_it.set()
            assert tries.wait(DEADLINE_S)
            order.append("a")

    def second():
        assert has_it.wait(DEADLINE_S)
        tries.set()
        with turns.hold("b"):
            order.append("b")

    together(first, second)
    assert order == ["a", "b"]


def test_keyed_locks_are_released_after_an_error():
    turns = KeyedLocks()
    with pytest.raises(ZeroDivisionError), turns.hold("a"):
        _ = 1 / 0
    with turns.hold("a"):
        assert True


def test_lru_cache_recomputes_after_a_new_version():
    cache = LRUCache()
    values: list[int] = []

    def make():
        values.append(len(values))
        return values[-1]

    assert [cache.get("a", stamp, make) for stamp in (1, 1, 2, 2)] == [0, 0, 1, 1]
    assert cache.get("b", 2, lambda: None) is None
    assert cache.get("b", 2, make) is None  # None is a result too


def test_lru_cache_evicts_the_least_recently_used():
    cache = LRUCache(room=2)
    values: list[str] = []
    for name in ("a", "b", "a", "c", "a", "b"):
        cache.get(name, 0, partial(values.append, name))
    assert values == ["a", "b", "c", "b"]
    assert cache.used == 2


def test_lru_cache_concurrent_callers_compute_once():
    cache, begun, may_end, values = LRUCache(), Event(), Event(), []

    def make():
        begun.set()
        assert may_end.wait(DEADLINE_S)
        values.append(1)
        return "made"

    def second():
        assert begun.wait(DEADLINE_S)
        may_end.set()
        assert cache.get("a", 0, make) == "made"

    together(lambda: cache.get("a", 0, make), second)
    assert values == [1]


def test_picture_cache_is_limited_by_bytes():
    cache = picture_cache()
    for number in range(70):
        cache.get(number, 0, lambda: bytes(2**20))
    assert 60 * 2**20 < cache.used <= 64 * 2**20


def test_try_hold_does_not_wait():
    turns = KeyedLocks()
    with turns.hold("a"), turns.try_hold("a") as is_free, turns.try_hold("b") as is_other_free:
        assert (is_free, is_other_free) == (False, True)
    with turns.try_hold("a") as is_free:
        assert is_free
