from functools import partial
from threading import Event, Thread

import pytest

from qc._cache import LRUCache, pictures_kept
from qc._locks import KeyedLocks
from tests.support.waiting import DEADLINE_S, wait_for_end


def together(*works):
    threads = [Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    wait_for_end(*threads)


def test_two_who_want_one_name_wait_for_each_other_and_others_do_not():
    turns, has_it, may_end = KeyedLocks(), Event(), Event()
    order = []

    def first():
        with turns.of("a"):
            has_it.set()
            assert may_end.wait(DEADLINE_S)
            order.append("first")

    def second():
        assert has_it.wait(DEADLINE_S)
        with turns.of("b"):
            order.append("other")
        may_end.set()
        with turns.of("a"):
            order.append("second")

    together(first, second)
    assert order == ["other", "first", "second"]


def test_no_more_are_at_work_at_once_than_may_be():
    turns, has_it, tries = KeyedLocks(at_once=1), Event(), Event()
    order = []

    def first():
        with turns.of("a"):
            has_it.set()
            assert tries.wait(DEADLINE_S)
            order.append("a")

    def second():
        assert has_it.wait(DEADLINE_S)
        tries.set()
        with turns.of("b"):
            order.append("b")

    together(first, second)
    assert order == ["a", "b"]


def test_a_turn_that_failed_leaves_its_name_to_others():
    turns = KeyedLocks()
    with pytest.raises(ZeroDivisionError), turns.of("a"):
        _ = 1 / 0
    with turns.of("a"):
        assert True


def test_what_was_made_once_is_not_made_again_until_it_is_made_from_something_else():
    kept = LRUCache()
    made: list[int] = []

    def make():
        made.append(len(made))
        return made[-1]

    assert [kept.get("a", stamp, make) for stamp in (1, 1, 2, 2)] == [0, 0, 1, 1]
    assert kept.get("b", 2, lambda: None) is None
    assert kept.get("b", 2, make) is None  # None is a result too


def test_the_least_lately_used_is_forgotten_first():
    kept = LRUCache(room=2)
    made: list[str] = []
    for name in ("a", "b", "a", "c", "a", "b"):
        kept.get(name, 0, partial(made.append, name))
    assert made == ["a", "b", "c", "b"]
    assert kept.used == 2


def test_two_who_ask_at_once_wait_for_one():
    kept, begun, may_end, made = LRUCache(), Event(), Event(), []

    def make():
        begun.set()
        assert may_end.wait(DEADLINE_S)
        made.append(1)
        return "made"

    def second():
        assert begun.wait(DEADLINE_S)
        may_end.set()
        assert kept.get("a", 0, make) == "made"

    together(lambda: kept.get("a", 0, make), second)
    assert made == [1]


def test_pictures_are_kept_while_there_is_room_for_their_bytes():
    kept = pictures_kept()
    for number in range(70):
        kept.get(number, 0, lambda: bytes(2**20))
    assert 60 * 2**20 < kept.used <= 64 * 2**20


def test_who_wants_a_name_only_if_it_is_free_does_not_wait_for_it():
    turns = KeyedLocks()
    with turns.of("a"), turns.if_free("a") as is_free, turns.if_free("b") as is_other_free:
        assert (is_free, is_other_free) == (False, True)
    with turns.if_free("a") as is_free:
        assert is_free
