import dataclasses

import pytest

from udocker.values import dataclass, replace


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


def test_values_are_equal_when_their_fields_are():
    assert Point(1, y=2) == Point(x=1, y=2) != Point(1)
    assert hash(Point(1)) == hash(Point(1, 0))
    assert Point(1) != (1, 0)


def test_a_value_cannot_change():
    with pytest.raises(AttributeError):
        Point(1).x = 2


def test_replace_returns_a_changed_copy():
    point = Point(1, 2)
    assert replace(point, y=3) == Point(1, 3)
    assert point.y == 2


def test_a_value_shows_its_fields_as_dataclasses_do():
    real = dataclasses.make_dataclass("Point", ["x", ("y", int, 0)], frozen=True)
    assert repr(Point(1)) == repr(real(1))


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})]
)
def test_wrong_fields_are_an_error(args, kwargs):
    with pytest.raises(TypeError):
        Point(*args, **kwargs)


def test_a_value_may_have_no_fields():
    @dataclass(frozen=True)
    class Nothing:
        """Only what it is."""

    assert Nothing() == Nothing()
    assert repr(Nothing()).endswith("Nothing()")
