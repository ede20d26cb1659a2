"""Challenges are read by their grammar, and tokens with their life."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udocker.errors import RegistryError
from udocker.registry.auth import DEFAULT_TOKEN_LIFE_S, Challenge, Token, parse_challenges
from udocker.registry.secret import Credentials

CHALLENGES = [
    ("", ()),
    ("Basic", (("basic", ()),)),
    ('Basic realm="a b"', (("basic", (("realm", "a b"),)),)),
    (
        'Bearer realm="https://r/t",service="s",scope="repository:a:pull,push"',
        (
            (
                "bearer",
                (("realm", "https://r/t"), ("service", "s"), ("scope", "repository:a:pull,push")),
            ),
        ),
    ),
    (
        'BEARER Realm = x , SCOPE="a"',
        (("bearer", (("realm", "x"), ("scope", "a"))),),
    ),
    (
        'Negotiate, Basic realm="x", charset="UTF-8", Bearer realm="y"',
        (
            ("negotiate", ()),
            ("basic", (("realm", "x"), ("charset", "UTF-8"))),
            ("bearer", (("realm", "y"),)),
        ),
    ),
    ('Negotiate YWJj==, Basic realm="x"', (("negotiate", ()), ("basic", (("realm", "x"),)))),
    (r'Basic realm="say \"hi\", \\ you"', (("basic", (("realm", r'say "hi", \ you'),)),)),
    (' , ,Basic  realm="", ,', (("basic", (("realm", ""),)),)),
    ('realm="nobody\'s"', ()),
    ('Bearer realm="never ends', (("bearer", ()),)),
    ('@@@, Basic realm="x"', (("basic", (("realm", "x"),)),)),
]


@pytest.mark.parametrize(("header", "expected"), CHALLENGES)
def test_a_challenge_is_read_by_its_grammar(header, expected):
    assert parse_challenges(header) == tuple(Challenge(*fields) for fields in expected)


def test_scopes_may_be_words_or_parameters():
    challenge = parse_challenges('Bearer scope="a b", scope="c", scope="a"')[0]
    assert challenge.scopes == ("a", "b", "c")
    assert challenge.parameter("realm") == ""


HOSTILE = ["a", '="', "a ", ",", " ", "\\", "a=", 'a="b",', "\t,", 'a="\\"', "a=b ", "A=", '"']


@pytest.mark.parametrize("part", HOSTILE)
@pytest.mark.parametrize("before", ["", "Bearer ", 'Bearer realm="'])
def test_a_hostile_header_is_read_at_once(before, part):
    # Some milliseconds; minutes where the time grows with the square of the length.
    parse_challenges(before + part * (65_000 // len(part)))
    parse_challenges(before + part * 2000 + "!" + part * 2000)


WORDS = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,9}", fullmatch=True)


@given(st.text() | st.text("Basic realm=\"\\, ='x", max_size=60))
def test_any_header_is_read_without_failure(header):
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()


PARAMETERS = st.tuples(WORDS, st.text('ab, ="\\', max_size=9))


@given(st.lists(st.tuples(WORDS, st.lists(PARAMETERS, max_size=3)), max_size=3))
def test_what_is_written_by_the_grammar_reads_back(challenges):
    written = ", ".join(
        f"{scheme} " + ", ".join(f'{key}="{_escaped(value)}"' for key, value in parameters)
        for scheme, parameters in challenges
    )
    assert parse_challenges(written) == tuple(
        Challenge(scheme.lower(), tuple((key.lower(), value) for key, value in parameters))
        for scheme, parameters in challenges
    )


def _escaped(text):
    return text.replace("\\", "\\\\").replace('"', '\\"')


@pytest.mark.parametrize(
    ("answer", "secret", "life_s"),
    [
        ({"token": "t", "expires_in": 300}, "t", 300),
        ({"access_token": "t"}, "t", DEFAULT_TOKEN_LIFE_S),
        ({"token": "", "access_token": "b"}, "b", DEFAULT_TOKEN_LIFE_S),
        ({"token": "t", "expires_in": -5}, "t", DEFAULT_TOKEN_LIFE_S),
        ({"token": "t", "expires_in": "soon"}, "t", DEFAULT_TOKEN_LIFE_S),
        ({"token": "t", "expires_in": True}, "t", DEFAULT_TOKEN_LIFE_S),
        ({"token": "t", "expires_in": 1e300}, "t", 86400),
    ],
)
def test_a_token_answer_is_read(answer, secret, life_s):
    token = Token.from_json(json.dumps(answer).encode())
    assert (token.secret, token.life_s) == (secret, life_s)


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\r\\nb: c"}', b"\xff", b'{"token":NaN}'],
)
def test_an_answer_without_a_token_is_refused(answer):
    with pytest.raises(RegistryError):
        Token.from_json(answer)


def test_no_secret_stands_in_a_repr():
    values = [Credentials("user", "s3cret", "s3cret"), Token("s3cret", 60)]
    assert not any("s3cret" in f"{value!r} {value}" for value in values)
