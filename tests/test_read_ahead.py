import threading

import pytest

from nvdyn_ase.workflows.ahead import ReadAhead


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
@pytest.mark.parametrize("depth", [1, 3, 64])
def test_everything_comes_once_and_in_order(count, depth):
    assert list(ReadAhead(iter(range(count)), depth)) == list(range(count))


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33])
@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt()])
def test_an_error_comes_behind_what_was_read(count, error):
    def items():
        yield from range(count)
        raise error

    reading = ReadAhead(items())
    assert [next(reading) for _ in range(count)] == list(range(count))
    with pytest.raises(type(error)):
        next(reading)
    assert list(reading) == []


@pytest.mark.parametrize("depth", [1, 16, 256])
def test_it_reads_a_bounded_way_ahead_and_stops_when_closed(depth):
    given = 0

    def items():
        nonlocal given
        while True:
            given += 1
            yield given

    reading = ReadAhead(items(), depth)
    for expected in range(1, 500):
        assert next(reading) == expected
        assert given <= expected + depth + 2 * max(depth // 8, 1)
    reading.close()
    reading._thread.join(10)
    assert not reading._thread.is_alive()
    assert list(reading) == []


def test_one_thread_reads_all_of_it():
    threads = set()

    def items():
        for index in range(100):
            threads.add(threading.get_ident())
            yield index

    assert len(list(ReadAhead(items()))) == 100
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_what_is_there_is_not_held_back_until_there_is_more():
    more = threading.Event()

    def items():
        yield 1
        more.wait(10)
        yield 2

    reading = ReadAhead(items())
    assert next(reading) == 1
    more.set()
    assert list(reading) == [2]
