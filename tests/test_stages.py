"""Steps side by side: nothing is lost, added or still at work, however they end."""

import threading
from contextlib import closing

import pytest

from udocker.transfer.parallel.stages import AHEAD, NAME, ahead


def counted(count, made, error=None):
    for number in range(count):
        made.append(number)
        yield b"%d" % number
    if error:
        raise error


@pytest.mark.parametrize("count", [0, 1, AHEAD, 5 * AHEAD])
def test_chunks_come_in_order_and_whole_through_any_number_of_steps(count):
    with closing(ahead(counted(count, []))) as once, closing(ahead(once)) as twice:
        assert [int(chunk) for chunk in twice] == list(range(count))


def test_an_error_comes_after_the_chunks_before_it():
    seen = []
    with pytest.raises(ZeroDivisionError), closing(ahead(counted(3, [], ZeroDivisionError()))) as c:
        seen.extend(c)
    assert len(seen) == 3


def test_a_step_is_only_a_little_ahead():
    made = []
    with closing(ahead(counted(1000, made))) as chunks:
        next(chunks)
        while len(made) < AHEAD:  # the other thread gets there
            pass
        assert len(made) <= AHEAD + 2


def test_a_source_can_be_read_on_when_steps_were_closed_before_its_end():
    made = []
    source = counted(1000, made)
    with closing(ahead(source)) as once, closing(ahead(once)) as twice:
        next(twice)
    assert not [t for t in threading.enumerate() if t.name.startswith(NAME)]
    assert int(next(source)) == made[-1]
    for _ in source:
        pass
    assert made == list(range(1000))
