"""registries.conf is read as podman reads it; whatever else is in it is named with its line."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udocker.errors import InvalidReference, RegistryError, UdockerError, UsageError
from udocker.reference import Reference, registry_of
from udocker.registry import toml
from udocker.registry.configuration import Registries, load, parse
from udocker.registry.endpoints import endpoints, own, with_mirrors
from udocker.registry.shortnames import meanings
from udocker.settings import Settings

DIGEST = "sha256:" + "0123456789abcdef" * 4


class Files:
    """A home and a system directory with files of registries; `load` reads them."""

    def __init__(self, path):
        self.path = str(path)
        self.environment = {"HOME": f"{self.path}/home"}

    def write(self, name, text):
        path = f"{self.path}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        return path

    def own(self, text, name="registries.conf"):
        return self.write(f"home/.config/containers/{name}", text)

    def system(self, text, name="registries.conf"):
        return self.write(f"system/{name}", text)

    def load(self):
        return load(self.environment, f"{self.path}/system")

    def places(self, name):
        found = endpoints(Reference.parse(name), self.load())
        return [(str(e.reference), e.insecure, e.is_mirror) for e in found]


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_without_files_an_image_is_at_its_registry(files):
    assert files.load() == Registries()
    assert files.places("ubuntu") == [("docker.io/library/ubuntu:latest", False, False)]


def test_a_file_of_comments_says_nothing(files):
    files.system("# an example\n\n  # unqualified-search-registries = 5\n")
    assert files.load() == Registries()


MIRRORED = """
[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "cache.site:5000/hub"
insecure = true
[[registry.mirror]]
location = "other.site"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "third.site/"
pull-from-mirror = "tag-only"
"""


def test_mirrors_come_first_in_their_order_and_serve_what_they_are_for(files):
    files.system(MIRRORED)
    assert files.places("ubuntu:24.04") == [
        ("cache.site:5000/hub/library/ubuntu:24.04", True, True),
        ("third.site/library/ubuntu:24.04", False, True),
        ("docker.io/library/ubuntu:24.04", False, False),
    ]
    assert files.places(f"a/b:c@{DIGEST}") == [
        (f"cache.site:5000/hub/a/b:c@{DIGEST}", True, True),
        (f"other.site/a/b:c@{DIGEST}", False, True),
        (f"docker.io/a/b:c@{DIGEST}", False, False),
    ]
    assert files.places("quay.io/a/b") == [("quay.io/a/b:latest", False, False)]


PLACES = [
    # prefix, location, name, where it is
    ("quay.io", "internal.site", "quay.io/a/b:1", "internal.site/a/b:1"),
    ("quay.io/a", "internal.site/z/y", "quay.io/a/b:1", "internal.site/z/y/b:1"),
    ("quay.io/a", "internal.site", "quay.io/ab/c:1", "quay.io/ab/c:1"),
    ("quay.io", "internal.site", "quay.io:443/a:1", "internal.site:443/a:1"),
    ("quay.io/a/b:1", "internal.site/c:2", "quay.io/a/b:1", "internal.site/c:2"),
    ("*.example.org", "internal.site", "x.example.org/a:1", "internal.site/a:1"),
    ("*.example.org", "internal.site", "y.x.example.org:5/a:1", "internal.site/a:1"),
    ("*.example.org", "internal.site", "example.org/a:1", "example.org/a:1"),
    ("*.example.org", "internal.site", "quay.io/x.example.org/a:1", "quay.io/x.example.org/a:1"),
    ("docker.io/library", "internal.site", "ubuntu:1", "internal.site/ubuntu:1"),
    ("quay.io", "docker.io", "quay.io/a:1", "docker.io/library/a:1"),
]


@pytest.mark.parametrize(("prefix", "location", "name", "where"), PLACES)
def test_a_location_stands_in_the_place_of_the_prefix(files, prefix, location, name, where):
    files.own(f'[[registry]]\nprefix = "{prefix}"\nlocation = "{location}"\n')
    assert files.places(name) == [(where, False, False)]


def test_the_longest_prefix_counts(files):
    rules = {"*.io": "one.site", "quay.io": "two.site", "quay.io/a": "three.site"}
    for prefix, location in rules.items():
        name = f"registries.conf.d/{location}.conf"
        files.own(f'[[registry]]\nprefix = "{prefix}"\nlocation = "{location}"\n', name)
    found = [files.places(name)[0][0] for name in ("ghcr.io/x", "quay.io/x", "quay.io/a/x")]
    assert found == ["one.site/x:latest", "two.site/x:latest", "three.site/x:latest"]


def test_insecure_and_blocked_are_of_one_registry(files):
    path = files.own(
        '[[registry]]\nlocation = "lab:5000"\ninsecure = true\n'
        '[[registry]]\nprefix = "*.evil.org"\nblocked = true\n'
    )
    assert files.places("lab:5000/a") == [("lab:5000/a:latest", True, False)]
    assert own("lab:5000", files.load()).insecure
    assert not own("quay.io", files.load()).insecure
    for ask in (lambda: files.places("x.evil.org/a"), lambda: own("x.evil.org", files.load())):
        with pytest.raises(RegistryError, match="blocked") as caught:
            ask()
        assert path in caught.value.hint


def test_later_files_change_what_earlier_ones_say(files):
    def rule(location):
        return f'[[registry]]\nprefix = "quay.io"\nlocation = "{location}"\n'

    files.system(rule("one.site"))
    assert files.places("quay.io/a")[0][0] == "one.site/a:latest"
    files.system(rule("two.site"), "registries.conf.d/10.conf")
    files.system(rule("no.site"), "registries.conf.d/99.conf.old")
    assert files.places("quay.io/a")[0][0] == "two.site/a:latest"
    files.own('unqualified-search-registries = ["a.site"]\n[aliases]\nx = "b.site/x"\ny = "c.d/y"')
    files.own('[aliases]\nx = ""\n', "registries.conf.d/50.conf")
    files.own(rule("three.site"), "registries.conf.d/60.conf")
    assert files.places("quay.io/a")[0][0] == "three.site/a:latest"
    assert (files.load().search, files.load().aliases) == (("a.site",), (("y", "c.d/y"),))
    files.environment["CONTAINERS_REGISTRIES_CONF"] = files.write("only.conf", rule("four.site"))
    assert files.places("quay.io/a")[0][0] == "four.site/a:latest"
    assert files.load().search == ()


def test_the_first_version_is_read_too(files):
    files.own(
        "[registries.search]\nregistries = ['quay.io', 'docker.io']\n"
        "[registries.insecure]\nregistries = ['lab:5000', 'bad.org']\n"
        "[registries.block]\nregistries = ['bad.org']\n"
    )
    assert files.load().search == ("quay.io", "docker.io")
    assert files.places("lab:5000/a") == [("lab:5000/a:latest", True, False)]
    with pytest.raises(RegistryError, match="blocked"):
        files.places("bad.org/a")


BROKEN = [
    # text, what is said of it
    ("a = 1\nb = [", "registries.conf:2: is not TOML"),
    ("a = 1\na = 2", "registries.conf:2: is not TOML: "),
    ("[[registry]]\ninsecure = true", "registries.conf:1: a [[registry]] has neither"),
    ("\n[[registry]]\nlocation = 5", "registries.conf:3: location is not a text"),
    ("[registry]\nlocation = 'a.b'", "registry is not a list of tables"),
    ("registry = 5", "registry is not a list of tables"),
    ("registry = [5]", "registry is not a list of tables"),
    (
        "[[registry]]\nlocation = 'https://a.b'",
        ":2: location 'https://a.b' is a URL",
    ),
    ("[[registry]]\nlocation = 'a.b'\nblocked = 'no'", ":3: blocked is not true or false"),
    ("[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]", "mirror]] has no location"),
    (
        "[[registry]]\nlocation='a.b'\n[[registry.mirror]]\nlocation='c.d'\n"
        "pull-from-mirror = 'never'",
        ":5: pull-from-mirror is 'never', not all, digest-only or tag-only",
    ),
    (
        "[[registry]]\nlocation='a.b'\nmirror-by-digest-only=true\n[[registry.mirror]]\n"
        "location='c.d'\npull-from-mirror = 'all'",
        "exclude each other",
    ),
    ("unqualified-search-registries = 'quay.io'", "is not a list of texts"),
    ("unqualified-search-registries = ['quay.io/a']", "'quay.io/a' is not host[:port]"),
    ("\nshort-name-mode = 'strict'", "registries.conf:2: short-name-mode is 'strict'"),
    ("aliases = []", "aliases is not a table"),
    ("[aliases]\na = 5", "a is not a text"),
    ("[registries.search]\nregistries = 5", "registries is not a list"),
    ("[registries]\n[[registry]]\nlocation = 'a.b'", "mixes versions"),
    ("a = " + "[" * 9999, "not TOML"),
    ("a = " + "1" * 9999, "not TOML"),
]


@pytest.mark.parametrize(("text", "problem"), BROKEN)
def test_a_broken_file_is_named_with_its_line(files, text, problem):
    files.own(text)
    with pytest.raises(UsageError) as caught:
        files.load()
    assert problem in caught.value.message
    assert caught.value.message.startswith(f"{files.path}/home/.config/containers/registries.conf")
    assert "CONTAINERS_REGISTRIES_CONF" in caught.value.hint


def test_what_is_no_text_is_named_too(files):
    path = files.own("")
    for data, problem in ((b"a = 1\nb = '\xff'", ":2: is not UTF-8"), (b"#" * (2 << 20), "larger")):
        with open(path, "wb") as file:
            file.write(data)
        with pytest.raises(UsageError, match=problem):
            files.load()
    os.remove(path)
    os.mkdir(path)
    with pytest.raises(UsageError, match="Is a directory"):
        files.load()


@pytest.mark.parametrize("location", ["nohost/a", "a.b/UPPER", "a..b", "a.b/x y", "[::1"])
def test_a_location_that_cannot_be_is_named_with_its_file(files, location):
    path = files.own(f'[[registry]]\nprefix = "quay.io"\nlocation = "{location}"\n')
    with pytest.raises(UsageError) as caught:
        files.places("quay.io/a")
    assert path in caught.value.message and repr(location) in caught.value.message


VALUES = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "a.b", "a.b/c", "*.b", "x", "://"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["prefix", "location", "insecure", "blocked", "mirror", "pull-from-mirror"]
                + ["mirror-by-digest-only", "registry", "aliases", "registries", "search"]
                + ["unqualified-search-registries", "short-name-mode"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["registry", "aliases", "registries"]), VALUES), st.text())
def test_any_content_is_read_or_refused(members, text):
    try:
        registries = parse(toml.Table("file", text, members))
        endpoints(Reference.parse("a.b/c/d:e"), registries)
        own("a.b", registries)
    except UdockerError:
        pass


@given(st.binary(max_size=200) | st.text('[]registry=".\n#', max_size=60).map(str.encode))
def test_any_file_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.conf"
    path.write_bytes(data)
    try:
        load({"CONTAINERS_REGISTRIES_CONF": str(path)})
    except UsageError as error:
        assert str(path) in error.message


# The setting `mirrors`


def test_mirrors_of_the_hub_can_be_set_without_a_file(files):
    files.own(MIRRORED)
    registries = with_mirrors(files.load(), "https://one.site/, http://two.site:5/x three.site")
    found = endpoints(Reference.parse("a/b"), registries)
    assert [(str(e.reference), e.insecure) for e in found] == [
        ("one.site/a/b:latest", False),
        ("two.site:5/x/a/b:latest", True),
        ("three.site/a/b:latest", False),
        ("cache.site:5000/hub/a/b:latest", True),
        ("third.site/a/b:latest", False),
        ("docker.io/a/b:latest", False),
    ]
    assert len(endpoints(Reference.parse("quay.io/a"), registries)) == 1
    with pytest.raises(UsageError, match="the setting `mirrors`: location 'nohost'"):
        endpoints(Reference.parse("a"), with_mirrors(Registries(), "nohost"))


# Short names


SHORT = [
    ("app:1", "", {}, ["docker.io/library/app:1"]),
    ("o/app", "", {}, ["docker.io/o/app:latest"]),
    ("app:1", "unqualified-search-registries = ['quay.io']", {}, ["quay.io/app:1"]),
    (
        "app",
        "unqualified-search-registries = ['a.b', 'docker.io']",
        {},
        ["a.b/app:latest", "docker.io/library/app:latest"],
    ),
    ("quay.io/app", "unqualified-search-registries = ['a.b']", {}, ["quay.io/app:latest"]),
    (
        "docker.io/app",
        "unqualified-search-registries = ['a.b']",
        {},
        ["docker.io/library/app:latest"],
    ),
    ("app", "unqualified-search-registries = ['a.b']", {"registry": "c.d"}, ["c.d/app:latest"]),
    (
        "app",
        "unqualified-search-registries = ['a.b']",
        {"registry": "https://index.docker.io/v1/"},
        ["docker.io/library/app:latest"],
    ),
    ("app:1", "[aliases]\napp = 'quay.io/o/app'", {}, ["quay.io/o/app:1"]),
    (f"o/app@{DIGEST}", "[aliases]\n'o/app' = 'quay.io/p/app'", {}, [f"quay.io/p/app@{DIGEST}"]),
    ("other", "[aliases]\napp = 'quay.io/o/app'", {}, ["docker.io/library/other:latest"]),
    ("app", "short-name-mode = 'enforcing'", {}, ["docker.io/library/app:latest"]),
]


@pytest.mark.parametrize(("name", "text", "settings", "meant"), SHORT)
def test_a_short_name_means_what_the_user_says(tmp_path, name, text, settings, meant):
    path = tmp_path / "registries.conf"
    path.write_text(text)
    environment = {"CONTAINERS_REGISTRIES_CONF": str(path)}
    found = meanings(name, Settings("/nowhere", environment, **settings))
    assert [str(reference) for reference in found] == meant


def test_an_open_short_name_is_refused_where_that_is_wanted(files):
    text = "short-name-mode = 'enforcing'\nunqualified-search-registries = ['a.b', 'c.d']"
    files.own(text)
    with pytest.raises(UsageError, match="enforcing") as caught:
        meanings("app:1", Settings("/nowhere", files.environment))
    assert "a.b/app:1 c.d/app:1" in caught.value.hint


def test_what_a_distribution_says_of_short_names_changes_nothing(files):
    files.system("unqualified-search-registries = ['quay.io']\n[aliases]\ncentos = 'quay.io/c/c'")
    files.system("[aliases]\nubuntu = 'a.b/c'", "registries.conf.d/000-shortnames.conf")
    assert files.load() == Registries()


def test_a_broken_alias_is_named(files):
    files.own("[aliases]\napp = 'UPPER/lower/Case'")
    with pytest.raises(UsageError, match="alias of app"):
        meanings("app", Settings("/nowhere", files.environment))


@pytest.mark.parametrize(
    ("text", "registry"),
    [
        ("quay.io", "quay.io"),
        ("https://quay.io/", "quay.io"),
        ("http://127.0.0.1:5000/v2/", "127.0.0.1:5000"),
        ("https://registry-1.docker.io", "docker.io"),
        ("hub.docker.com", "docker.io"),
        ("localhost", "localhost"),
    ],
)
def test_a_registry_may_be_written_as_a_url(text, registry):
    assert registry_of(text) == registry


@pytest.mark.parametrize("text", ["quay", "", "https://", "quay.io/a", "https://quay.io/a", "a..b"])
def test_what_is_no_registry_is_refused(text):
    with pytest.raises(InvalidReference):
        registry_of(text)


@pytest.mark.parametrize("text", ["me:s3cret@quay.io", "https://me:s3cr@et@quay.io/v2/"])
def test_a_registry_is_named_without_a_user(text):
    with pytest.raises(InvalidReference, match="without a user") as caught:
        registry_of(text)
    assert "s3cr" not in caught.value.message
