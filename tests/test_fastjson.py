import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udocker import fastjson

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(documents)
def test_what_is_written_is_read_back_by_both_readers(document):
    text = fastjson.dumps(document)
    assert fastjson.loads(text) == json.loads(text) == document


@pytest.mark.parametrize("value", [{1, 2}, b"x", [object()], float("nan"), [float("inf")]])
def test_what_has_no_form_in_json_is_not_written(value):
    with pytest.raises((TypeError, ValueError)):
        fastjson.dumps(value)


def test_tuples_and_fractions_are_written_as_json_does():
    value = {"a": (1, 2.5, True), "b": "\udcff\n\u00e9"}
    assert fastjson.dumps(value) == json.dumps(value, separators=(",", ":"))


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_are_a_value_or_a_value_error(data):
    try:
        value = fastjson.loads(data)
    except ValueError:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', "[1] 2", "NaN", "[Infinity]", "", "[" * 200_000])
def test_what_json_is_lax_about_is_an_error(text):
    with pytest.raises(ValueError):
        fastjson.loads(text)


def test_a_number_with_a_fraction_is_read():
    assert fastjson.loads(b' {"a": [1.5, -2e3]}\n') == {"a": [1.5, -2000.0]}


@pytest.mark.parametrize("text", ["", "{", '{"a', '{"a":[1', '{"a" 1}', '"\\u12', "[1,", "tru"])
def test_broken_text_is_a_value_error_also_where_json_was_never_imported(text):
    program = "import sys; from udocker import fastjson\nprint('json' in sys.modules)\n"
    program += "try: fastjson.loads(sys.argv[1])\nexcept ValueError: print('ValueError')"
    done = subprocess.run([sys.executable, "-Sc", program, text], capture_output=True, check=True)
    assert done.stdout.split() == [b"False", b"ValueError"]


def test_a_document_from_outside_has_values_in_number():
    most = b"[" + b"[]," * (fastjson.MAX_VALUES // 2 - 1) + b"1]"
    assert len(fastjson.from_outside(most)) == fastjson.MAX_VALUES // 2
    for one in (b"[],", b"{},", b"7,", b'"",'):
        with pytest.raises(ValueError, match="values"):
            fastjson.from_outside(b"[" + one * fastjson.MAX_VALUES + b"1]")
