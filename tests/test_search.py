"""`udocker search` asks registries in the ways that they know, and lists tags."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest
from images import add_image
from registries import DockerRegistry, Layout, Reply, Server
from tarballs import archive, file

from udocker.errors import RegistryError
from udocker.registry.search import Found, search
from udocker.settings import Settings

LONG = "A description of a program that is longer than what a table has room for"


class HubStub(Server):
    """Docker Hub's search, made true to its documentation: pages, `next`, its own fields."""

    images = [
        ("gromacs/gromacs", LONG, 90, False),
        ("gromacs", "the\nofficial \x1b[2J one", 9, True),
    ]
    images += [(f"org/gromacs{number}", "", 0, False) for number in range(150)]

    def reply(self, asked):
        parts = urlsplit(asked.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path != "/v2/search/repositories/":
            return Reply(404)
        page, size = int(query["page"]), int(query["page_size"])
        assert size <= 100
        chosen = [image for image in self.images if query["query"] in image[0]]
        more = len(chosen) > page * size
        results = [
            {
                "repo_name": name,
                "short_description": text,
                "star_count": stars,
                "pull_count": 5,
                "repo_owner": "",
                "is_automated": False,
                "is_official": official,
            }
            for name, text, stars, official in chosen[(page - 1) * size : page * size]
        ]
        following = f"https://hub.docker.com{parts.path}?page={page + 1}" if more else None
        answer = {"count": len(chosen), "next": following, "previous": None, "results": results}
        return Reply(body=json.dumps(answer).encode())


def first_api(asked):
    """The search of docker's first API, two results a page."""
    parts = urlsplit(asked.path)
    if parts.path != "/v1/search":
        return Reply(404)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    page = int(query["page"])
    names = [f"org/{query['q']}{number}" for number in range(5)]
    results = [{"name": n, "description": None} for n in names[(page - 1) * 2 : page * 2]]
    answer = {"num_pages": 3, "num_results": 5, "page_size": 2, "page": page, "results": results}
    return Reply(body=json.dumps({**answer, "query": query["q"]}).encode())


def look(server, term, limit=25):
    return [found.name for found in search(server.host, term, limit, Settings("/", {}))]


def test_a_hub_is_asked_page_by_page_up_to_the_limit():
    with HubStub() as hub:
        found = search("docker.io", "gromacs", 25, Settings("/", {}), hub.url)
        assert len(found) == 25 and len(hub.asked) == 1
        assert found[0] == Found("gromacs/gromacs", LONG, 90)
        assert found[1] == Found("gromacs", "the official [2J one", 9, official=True)
        assert len(search("docker.io", "gromacs", 999, Settings("/", {}), hub.url)) == 152
        assert len(hub.asked) == 3
        assert search("docker.io", "nothing", 9, Settings("/", {}), hub.url) == ()


def test_the_first_api_of_docker_is_asked_elsewhere():
    with Server(first_api) as server:
        assert look(server, "app") == [f"org/app{number}" for number in range(5)]
        assert len(server.asked) == 3
        assert look(server, "app", 2) == ["org/app0", "org/app1"]
        assert len(server.asked) == 4


def test_a_plain_registry_is_searched_by_its_list(tmp_path):
    layout = Layout(str(tmp_path / "layout"))
    layout.add("x", [])
    with DockerRegistry(tmp_path / "registry") as registry:
        for name in ("org/app", "other/apple", "org/tool"):
            registry.push(layout, "x", f"{name}:1")
        assert look(registry, "app") == ["org/app", "other/apple"]
        assert look(registry, "APP", 1) == ["org/app"]


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(404), "has no search"),
        (Reply(body=b"<html>"), "has no search"),
        (Reply(body=b'{"results": 5, "repositories": 5}'), "no list"),
        (Reply(403), "403"),
    ],
)
def test_a_registry_without_search_is_told(reply, problem):
    with Server(lambda asked: reply) as server, pytest.raises(RegistryError, match=problem):
        look(server, "app")


@pytest.mark.parametrize("index", [True, False])
def test_pages_without_results_are_the_end(index):
    empty = {"results": [], "next": "https://hub.docker.com/more", "num_pages": 10**9}
    with Server(lambda asked: Reply(body=json.dumps(empty).encode())) as server:
        settings = Settings("/", {})
        assert search(server.host, "a", 9, settings, server.url if index else "") == ()
    assert len(server.asked) == 1


def test_strange_results_are_left_out():
    strange = {"results": [5, {}, {"name": 5}, {"name": "a", "star_count": "x", "description": 5}]}
    with Server(lambda asked: Reply(body=json.dumps(strange).encode())) as server:
        assert look(server, "a") == ["a"]


def test_a_search_is_a_table_that_begins_with_names(unprivileged):
    with HubStub() as hub:
        done = unprivileged.udocker("search", "-a", "gromacs", env={"UDOCKER_INDEX": hub.url})
        lines = done.stdout.splitlines()
        assert lines[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
        assert len(lines) == 153
        assert lines[1].startswith("gromacs/gromacs ") and LONG[:42] + "..." in lines[1]
        assert lines[2].startswith("gromacs ") and lines[2].endswith("[OK]")

        def ask(*words):
            return unprivileged.udocker("search", f"--index={hub.url}", *words).stdout

        assert LONG in ask("--no-trunc", "--limit=1", "gromacs")
        assert ask("--format={{.Name}} {{.StarCount}}", "--limit=2", "gromacs").splitlines() == [
            "gromacs/gromacs 90",
            "gromacs 9",
        ]
        assert (
            json.loads(ask("--format=json", "--filter=is-official=true", "gromacs"))["Stars"] == "9"
        )
        assert len(ask("--filter=stars=9", "gromacs").splitlines()) == 3
        bad = unprivileged.udocker("search", "--filter=x=1", "gromacs", check=False)
        assert bad.returncode == 2 and "stars=N" in bad.stderr


def test_names_of_other_registries_can_be_pulled_as_they_are_shown(unprivileged):
    with Server(first_api) as server:
        for words in ([f"{server.host}/tool"], [f"--registry={server.host}", "tool"]):
            done = unprivileged.udocker("search", *words)
            assert done.stdout.splitlines()[1].split()[0] == f"{server.host}/org/tool0"


def test_tags_are_listed_one_a_line(unprivileged, docker_registry, tmp_path):
    layout = Layout(str(tmp_path / "layout"))
    add_image(layout, "app", [archive(file("a"))])
    for tag in ("1", "2", "latest"):
        docker_registry.push(layout, "app", f"tagged/app:{tag}")
    name = f"{docker_registry.host}/tagged/app"
    done = unprivileged.udocker("search", "--list-tags", name)
    assert done.stdout == "1\n2\nlatest\n"
    done = unprivileged.udocker("search", "--list-tags", "--limit=1", "--format=table", name)
    assert [line.split() for line in done.stdout.splitlines()] == [["NAME", "TAG"], [name, "1"]]
    done = unprivileged.udocker("search", "--list-tags", f"{name}/none", check=False)
    assert done.returncode == 1 and "404" in done.stderr
