"""Words for networks, GPUs and limits."""

import pytest

from udocker.commands import runoptions
from udocker.commands.options import grammar
from udocker.commands.options.gpu import parse_docker
from udocker.commands.options.network import parse_ports
from udocker.commands.options.running import processors
from udocker.containers.container import Container
from udocker.containers.spec import Limit, Port
from udocker.errors import UsageError
from udocker.oci import Digest


def request(*given, environment=None):
    values, _, rest = runoptions.parse((*given, "img"))
    return runoptions.make_request(values, rest[1:], environment or {})


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", [Port("", 0, 80)]),
        ("8080:80", [Port("", 8080, 80)]),
        ("8080:80/udp", [Port("", 8080, 80, "udp")]),
        ("0:80", [Port("", 0, 80)]),
        ("127.0.0.1:8080:80/tcp", [Port("127.0.0.1", 8080, 80)]),
        ("127.0.0.1::80", [Port("127.0.0.1", 0, 80)]),
        ("[::1]:8080:80", [Port("::1", 8080, 80)]),
        ("7000-7002:80-82", [Port("", 7000 + n, 80 + n) for n in range(3)]),
        ("7000-7009:80", [Port("", 7000, 80)]),
        ("80-81", [Port("", 0, 80), Port("", 0, 81)]),
    ],
)
def test_published_ports_have_dockers_grammar(text, ports):
    assert parse_ports(text) == ports


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "80:", "0", "70000", "80/sctp", "1:2:3", "localhost:1:2", "7-5:7-5", "[::1]80"),
        *("1-3:1-2", "1-60000", "-1", "80:80:80:80", "1.2.3.4.5:1:2", "٣", "80/"),
    ],
)
def test_ports_that_make_no_sense_are_refused(text):
    with pytest.raises(UsageError):
        parse_ports(text)


@pytest.mark.parametrize(
    ("ports", "told"), [("80:80", 0), ("8080:80", 1), ("127.0.0.1:8080:80/tcp", 1), ("80", 0)]
)
def test_a_published_port_that_is_another_inside_is_told_on_the_hosts_network(ports, told):
    assert len(request("-p", ports).notes) == told
    assert request("-p", ports, "--network=none").notes == ()


def test_exposed_ports_are_the_containers():
    assert request("--expose=80", "--expose=90/udp").exposed == (
        Port("", 0, 80),
        Port("", 0, 90, "udp"),
    )
    with pytest.raises(UsageError):
        request("--expose=80:80")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("db:10.0.0.1", [("db", "10.0.0.1")]),
        ("db=10.0.0.1", [("db", "10.0.0.1")]),
        ("db:::1", [("db", "::1")]),
        ("db:[2001:db8::1]", [("db", "2001:db8::1")]),
        ("a;b:10.0.0.1", [("a", "10.0.0.1"), ("b", "10.0.0.1")]),
        ("gate:host-gateway", [("gate", "127.0.0.1")]),
    ],
)
def test_lines_for_the_hosts_file(text, lines):
    assert list(request("--add-host", text).extra_hosts) == lines


@pytest.mark.parametrize(
    "given",
    [
        *(["--add-host=db"], ["--add-host=:10.0.0.1"], ["--add-host=db:nowhere"]),
        *(["--add-host=a b:10.0.0.1"], ["--add-host=a\nb:10.0.0.1"]),
        *(["--add-host=g:host-gateway", "--network=none"], ["--add-host=a:::1", "--no-hosts"]),
        *(["--dns=one.one"], ["--dns-search=a b"], ["--dns-option="], ["--domainname=a b"]),
        *(["--hostname="], ["--hostname=" + "a" * 65], ["--dns=1.1.1.1%x y"]),
    ],
)
def test_names_and_addresses_that_are_none_are_refused(given):
    with pytest.raises(UsageError):
        request(*given)


@pytest.mark.parametrize(
    ("text", "selection", "capabilities"),
    [
        ("all", "all", []),
        ("-1", "all", []),
        ("2", "0,1", []),
        ("0", "none", []),
        ('"2"', "0,1", []),
        ("device=0", "0", []),
        ("device=0,1", "0,1", []),
        ('"device=1,GPU-x"', "1,GPU-x", []),
        ("'\"device=1,GPU-x\"'".strip("'"), "1,GPU-x", []),
        ('"device=0,2",capabilities=utility', "0,2", ["utility"]),
        ('all,"capabilities=compute,utility"', "all", ["compute", "utility"]),
        ('all,capabilities="compute,utility"', "all", ["compute", "utility"]),
        ("driver=nvidia,count=2,capabilities=gpu", "0,1", []),
        ("count=all", "all", []),
        ("capabilities=video", "0", ["video"]),
        ("all,capabilities=compute,utility", "all", ["compute", "utility"]),
        ("count=2,capabilities=[gpu,video]", "0,1", ["video"]),
        ('"device=0,1","capabilities=compute"', "0,1", ["compute"]),
        ('"device=GPU-5a3f,MIG-77"', "GPU-5a3f,MIG-77", []),
        ("device=GPU-5a3f,GPU-77", "GPU-5a3f,GPU-77", []),
    ],
)
def test_gpus_in_dockers_words(text, selection, capabilities):
    assert parse_docker(text) == (selection, capabilities)


@pytest.mark.parametrize(
    "text",
    [
        *("", "some", "device=", "count=", "count=x", "0,1", "2,3", "driver=amd", "options=x"),
        *("count=1,device=0", "device", "99999", "all,all", '"device=0'),
    ],
)
def test_gpus_that_make_no_sense_are_refused(text):
    with pytest.raises(UsageError):
        parse_docker(text)


@pytest.mark.parametrize(
    ("given", "selection"),
    [
        ((), None),
        (("--gpu",), "all"),
        (("--gpu=try",), "try"),
        (("--gpus", "all"), "all"),
        (("--gpus=2",), "0,1"),
        (("--nv",), "all"),
        (("--nvidia",), "all"),
        (("--gpu-caps=video",), None),
    ],
)
def test_gpus_are_asked_for_in_the_words_of_many_tools(given, selection):
    assert request(*given).gpu == selection


@pytest.mark.parametrize(
    ("given", "selection"),
    [
        (("--nv", "--gpu=0"), "0"),
        (("--gpus=1", "--gpu=0"), "0"),
        (("--runtime=nvidia", "--gpus=1"), "0"),
        (("--runtime=nvidia",), "auto"),
        (("--nv", "--device=nvidia.com/gpu=1"), "1"),
        (("--gpu=1", "--device", "nvidia.com/gpu=1"), "1"),
    ],
)
def test_words_of_several_tools_go_together_where_they_mean_the_same(given, selection):
    made = request(*given)
    assert (made.gpu, made.notes) == (selection, ())


@pytest.mark.parametrize(
    "given",
    [("--gpus=all", "--gpu=0"), ("--gpus=2", "--device=nvidia.com/gpu=1"), ("--gpu", "--gpus=0")],
)
def test_words_that_contradict_each_other_are_refused(given):
    with pytest.raises(UsageError, match="contradict each other"):
        request(*given)


def test_nv_beside_none_is_told_to_have_no_effect():
    made = request("--nv", "--gpu=none")
    assert made.gpu == "none"
    assert "--nv has no effect" in made.notes[0]


def test_how_gpus_are_given_is_checked_before_anything_runs():
    made = request("--gpu", "--gpu-strict", "--cuda-compat=off")
    assert (made.gpu_strict, made.cuda_compat) == (True, "off")
    assert (request("--gpu").gpu_strict, request("--gpu").cuda_compat) == (False, "auto")
    for given in ("--cuda-compat=maybe", "--gpu-caps=cheese", "--gpus=capabilities=cheese"):
        with pytest.raises(UsageError):
            request("--gpu=auto", given)


@pytest.mark.parametrize(
    ("own", "later", "wish", "selection"),
    [
        (("--gpus=1",), (), "", "0"),
        (("--gpus=1",), ("--gpu=all",), "", "all"),
        (("--gpu=0",), ("--nv",), "", "all"),
        (("--nv",), ("--gpu=none",), "all", "none"),
        ((), (), "all", "all"),
        (("--device=nvidia.com/gpu=0",), ("--gpu=1",), "", "1"),
        (("--gpu=0",), ("--device=nvidia.com/gpu=1",), "", "1"),
        (("--device=nvidia.com/gpu=0",), (), "all", "0"),
        (("--device=/dev/fuse",), (), "all", "all"),
        (("--gpu=0",), (), "all", "0"),
        ((), ("--gpu=none",), "all", "none"),
        ((), (), "", None),
    ],
)
def test_a_later_run_chooses_gpus_anew_or_has_those_that_were_set(own, later, wish, selection):
    digest = Digest.of(b"")
    container = Container("0" * 32, "/c", "docker.io/a/b:1", digest, digest, "/t", 0, own)
    values, said = runoptions.parse_kept(container, later, wish)
    assert runoptions.make_request(values, (), {}).gpu == selection
    assert list(said) == [word[2:].partition("=")[0] for word in later]


def test_capabilities_add_up():
    made = request("--gpus", '"capabilities=video,compute"', "--gpu-caps=compute,utility")
    assert made.gpu_capabilities == "compute,utility,video"


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("nofile=1024", Limit("nofile", 1024, 1024)),
        ("nofile=1024:2048", Limit("nofile", 1024, 2048)),
        ("memlock=-1", Limit("memlock", -1, -1)),
        ("core=0:unlimited", Limit("core", 0, -1)),
    ],
)
def test_a_limit_is_a_name_and_one_or_two_numbers(text, limit):
    assert request("--ulimit", text).limits == (limit,)


def test_of_two_limits_of_one_kind_the_last_counts():
    made = request("--ulimit=nofile=1", "--ulimit=core=0", "--ulimit=nofile=2", "--ulimit=host")
    assert made.limits == (Limit("nofile", 2, 2), Limit("core", 0, 0))


@pytest.mark.parametrize(
    "text", ["nofile", "nofile=", "files=3", "nofile=3:2", "nofile=-1:5", "nofile=-2", "nofile=1k"]
)
def test_limits_that_make_no_sense_are_refused(text):
    with pytest.raises(UsageError):
        request("--ulimit", text)


@pytest.mark.parametrize(
    ("text", "numbers"), [("", ()), ("3", (3,)), ("0-2,5", (0, 1, 2, 5)), ("5,0-1,1", (0, 1, 5))]
)
def test_processors_are_numbers_and_ranges(text, numbers):
    assert processors(text) == numbers


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "1-", "0-99999999", "1;2"])
def test_processors_that_make_no_sense_are_refused(text):
    with pytest.raises(UsageError):
        processors(text)


def test_fields_of_csv_are_read_with_their_quotes():
    assert grammar.csv_fields('a,"b,c",d="e,""f""",', "--x") == ["a", "b,c", 'd=e,"f"', ""]


@pytest.mark.parametrize("option", ["--gpu", "--rocm"])
def test_gpus_that_are_named_behind_a_space_are_no_image(option):
    for word in ("0", "0,1", "0:1", "all", "GPU-5a3f", "MIG-1"):
        values, _, rest = runoptions.parse([option, word, "img", "cmd"])
        with pytest.raises(UsageError, match="is no image") as caught:
            runoptions.split_target(values, rest)
        assert caught.value.hint == f"{option}={word} img"
    for words in ((option, "img", "0"), (option, "all"), ("all", "img"), (option, "x:1", "img")):
        values, _, rest = runoptions.parse(words)
        assert runoptions.split_target(values, rest)[0] == rest[0]
