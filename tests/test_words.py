import pytest

from udocker.commands import words
from udocker.commands.words import FLAG, OPTIONAL, VALUE, Option, parse
from udocker.errors import UsageError

OPTIONS = (
    Option(("-i", "--interactive"), FLAG),
    Option(("-t", "--tty"), FLAG),
    Option(("-e", "--env"), VALUE),
    Option(("--gpu",), OPTIONAL, default="all"),
)


@pytest.mark.parametrize(
    ("line", "env", "tty", "gpu", "rest"),
    [
        ("-it img", (), True, None, ["img"]),
        ("-eA=b img", ("A=b",), False, None, ["img"]),
        ("-e A=b --env=C= --env D img -e x", ("A=b", "C=", "D"), False, None, ["img", "-e", "x"]),
        ("-ite A=b img", ("A=b",), True, None, ["img"]),
        ("--tty=true img", (), True, None, ["img"]),
        ("--tty --tty=false img", (), False, None, ["img"]),
        ("--gpu img", (), False, "all", ["img"]),
        ("--gpu=0,1 img", (), False, "0,1", ["img"]),
        ("-t -- -img", (), True, None, ["-img"]),
        ("- x", (), False, None, ["-", "x"]),
    ],
)
def test_words_are_read_as_docker_reads_them(line, env, tty, gpu, rest):
    values, _, others = parse(line.split(), OPTIONS)
    assert (values.all("env"), values.flag("tty"), values.last("gpu"), others) == (
        env,
        tty,
        gpu,
        rest,
    )


@pytest.mark.parametrize(
    "line", ["--help", "-it --help img", "-h"], ids=["first", "after others", "alone"]
)
def test_help_is_asked_for_anywhere_among_the_options(line):
    with pytest.raises(words.HelpWantedError):
        parse(line.split(), OPTIONS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--ttyy img", "no such option: --ttyy"),
        ("-x img", "no such option: -x"),
        ("-e", "needs a value"),
        ("--env", "needs a value"),
        ("--tty=maybe", "true or false"),
    ],
)
def test_words_that_are_wrong_are_named(line, said):
    with pytest.raises(UsageError, match=said):
        parse(line.split(), OPTIONS)


def test_a_similar_option_is_suggested():
    with pytest.raises(UsageError) as caught:
        parse(["--intractive"], OPTIONS)
    assert caught.value.hint == "did you mean --interactive?"


def test_the_words_that_were_options_can_be_read_again():
    words = ["-it", "-e", "A=b", "img", "cmd"]
    _, options, rest = parse(words, OPTIONS)
    assert options + rest == words
    assert parse(options, OPTIONS)[0].all("env") == ("A=b",)
