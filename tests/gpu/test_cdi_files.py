"""Files of specifications: JSON and YAML, bounded, remembered; and which of several counts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu import cdispecs
from udocker.errors import StartError
from udocker.host.probe import Host
from udocker.nvidia.cdi import reading, registry, yamlfile

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefgh", "bcdefghi")
)
REAL = """\
---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
# a comment
devices:
  - name: 0
    containerEdits:
      deviceNodes: [{path: /dev/nvidia0, fileMode: 0666, major: 195, permissions: rw}]
  - name: "GPU-1"
    containerEdits: {env: [A=1.10, 'B=yes', "C=0x1f"]}
containerEdits:
"""


def load(directory, name, text, cache=None):
    return reading.load(cdispecs.write(str(directory), name, text), cache and str(cache))


def test_json_and_yaml_say_the_same(tmp_path):
    value = cdispecs.nvidia(gpus=2)
    of_json = load(tmp_path, "a.json", value)
    of_yaml = load(tmp_path, "a.yaml", yaml.safe_dump(value))
    assert of_json.fault == of_yaml.fault == ""
    assert of_json.spec.devices == of_yaml.spec.devices
    assert of_json.spec.edits == of_yaml.spec.edits


def test_yaml_is_read_as_people_write_it(tmp_path):
    found = load(tmp_path, "a.yaml", REAL).spec
    assert [device.name for device in found.devices] == ["0", "GPU-1"]
    assert found.devices[1].edits.env == (("A", "1.10"), ("B", "yes"), ("C", "0x1f"))


def test_numbers_of_yaml_are_those_of_cdis_own_reader():
    """Version 1.1, and Go's `0o10`, which is how version 1.2 writes the mode of a node."""
    text = "[0, 010, 0o10, '0o10', 0o9, 0x1f, 0b11, -3, +4, 1_0, 1:30, 1.5, 2001-01-01, ~, yes]"
    assert yamlfile.loads(text.encode()) == [
        *(0, 8, 8, "0o10", "0o9", 31, 3, -3, 4, 10, "1:30", "1.5", "2001-01-01", None, True)
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "not YAML: .* in line [12]"),
        ("a: b: c", "not YAML: mapping values are not allowed"),
        ("a: 1\na: 2", "line 2: the key 'a' is given twice"),
        ("[1, 2]: 3", "line 1: a key is not a string"),
        ("a: 1\n---\nb: 2", "not YAML: but found another document in line 2"),
        ("a: !!python/object/apply:os.system [true]", "the tag .* is not known"),
        ("a: !!binary aGk=", "the tag .* is not known"),
        ("a: !!set {x, y}", "the tag .* is not known"),
        ("a: !mine x", "the tag '!mine' is not known"),
        ("a: &a [*a]", "nested too deeply"),
        ("[" * 3000, "not YAML"),
        ("[" * 40 + "]" * 40, "nested too deeply"),
        (BOMB, "aliases make too many values"),
        ("a: \0", "not YAML"),
        ("a: \x07", "not YAML"),
        ("", "an object is wanted|no cdiVersion"),
        ("just text", "no cdiVersion|an object is wanted"),
    ],
)
def test_yaml_that_says_more_than_json_can_is_refused(tmp_path, text, says):
    file = load(tmp_path, "a.yaml", text)
    assert file.spec is None
    pytest.raises(ValueError, _raise, file.fault).match(says)


def _raise(text):
    raise ValueError(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "."),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 100_000, "nested too deeply"),
        ("NaN", "."),
        ('{"cdiVersion": "0.5.0"} x', "text after"),
    ],
)
def test_json_that_is_broken_is_refused(tmp_path, text, says):
    file = load(tmp_path, "a.json", text)
    assert file.spec is None
    pytest.raises(ValueError, _raise, file.fault).match(says)


def test_a_file_that_is_no_file_or_too_large_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.json")
    os.mkdir(tmp_path / "directory.yaml")
    assert reading.load(str(tmp_path / "fifo.json")).fault == "it is not a regular file"
    assert reading.load(str(tmp_path / "directory.yaml")).fault == "it is not a regular file"
    assert "No such file" in reading.load(str(tmp_path / "none.json")).fault
    assert "more than 2 MiB" in load(tmp_path, "large.yaml", "#" * (3 << 20)).fault


def test_without_libyaml_the_same_is_understood_and_refused(monkeypatch):
    monkeypatch.setattr(yamlfile, "_LOADER", yaml.SafeLoader)
    value = cdispecs.nvidia(gpus=2)
    assert yamlfile.loads(yamlfile.dumps(value).encode()) == value
    for text in ("[" * 3000, "a: 1\na: 2", BOMB, "a: &a [*a]", "a: !mine x", "a: \0"):
        with pytest.raises(ValueError, match="."):
            yamlfile.loads(text.encode())


def test_aliases_that_stay_small_are_understood():
    assert yamlfile.loads(b"a: &a [x]\nb: *a") == {"a": ["x"], "b": ["x"]}


def test_what_is_written_as_yaml_is_read_as_the_same():
    value = cdispecs.nvidia(gpus=3)
    assert yamlfile.loads(yamlfile.dumps(value).encode()) == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="a: -[]{}&*!|>\n'\"#%0", max_size=60))
def test_whatever_bytes_are_in_a_file_yaml_gives_a_value_or_the_reason(text):
    data = text if isinstance(text, bytes) else text.encode()
    try:
        yamlfile.loads(data)
    except ValueError as error:
        assert str(error)


def test_the_second_reading_needs_no_yaml(tmp_path):
    path = cdispecs.write(str(tmp_path), "a.yaml", yaml.safe_dump(cdispecs.nvidia()))
    first = reading.load(path, str(tmp_path / "cache"))
    program = (
        "import sys; from udocker.nvidia.cdi import reading; "
        "found = reading.load(*sys.argv[1:]); assert found.spec, found; "
        "print(found.spec.devices[0].name, "
        "sorted({'yaml', 'json', 're', 'typing', 'dataclasses', 'pathlib'}.intersection("
        "sys.modules)))"
    )
    command = [sys.executable, "-S", "-c", program, path, str(tmp_path / "cache")]
    environment = {"PYTHONPATH": os.path.dirname(os.path.dirname(os.path.dirname(__file__)))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{first.spec.devices[0].name} []\n"


def test_a_changed_file_is_read_anew(tmp_path):
    cache = tmp_path / "cache"
    assert load(tmp_path, "a.yaml", yaml.safe_dump(cdispecs.minimal()), cache).spec
    text = yaml.safe_dump(cdispecs.minimal(name="other"))
    assert load(tmp_path, "a.yaml", text, cache).spec.devices[0].name == "other"


def test_a_broken_memory_is_not_believed(tmp_path):
    cache = tmp_path / "cache"
    load(tmp_path, "a.yaml", yaml.safe_dump(cdispecs.minimal()), cache)
    for text in ("", "[]", "3", "[1, 2]", '["x"'):
        (cache / os.listdir(cache)[0]).write_text(text)
        assert reading.load(str(tmp_path / "a.yaml"), str(cache)).spec


def test_directories_are_searched_from_the_nodes_to_the_runs(tmp_path):
    environment = {"HOME": "/home/me", "XDG_RUNTIME_DIR": "/run/user/7", "UDOCKER_CDI_DIRS": "/a:b"}
    assert registry.directories(Host(), environment, ["/last"]) == (
        *("/etc/cdi", "/var/run/cdi", "/home/me/.config/cdi", "/run/user/7/cdi", "/a", "/last"),
    )
    assert registry.directories(Host(str(tmp_path)), {}) == (
        *(f"{tmp_path}/etc/cdi", f"{tmp_path}/var/run/cdi"),
    )


def test_of_two_directories_the_later_counts(tmp_path):
    for name in ("low", "high"):
        value = cdispecs.minimal(env=[f"FROM={name}"])
        cdispecs.write(str(tmp_path / name), "x.json", value)
    cdispecs.write(str(tmp_path / "low"), "y.json", cdispecs.minimal(name="y"))
    known = registry.scan((str(tmp_path / "low"), str(tmp_path / "high"), str(tmp_path / "none")))
    assert known.devices["vendor.com/net=x"].device.edits.env == (("FROM", "high"),)
    assert sorted(known.devices) == ["vendor.com/net=x", "vendor.com/net=y"]
    assert known.faults == ()


def test_a_device_that_two_files_of_one_directory_have_is_had_from_none(tmp_path):
    first = cdispecs.write(str(tmp_path), "1.json", cdispecs.minimal())
    second = cdispecs.write(str(tmp_path), "2.yaml", yaml.safe_dump(cdispecs.minimal()))
    cdispecs.write(str(tmp_path), "3.json", cdispecs.minimal(name="y"))
    known = registry.scan((str(tmp_path),))
    assert list(known.devices) == ["vendor.com/net=y"]
    assert known.faults == (f"vendor.com/net=x is in {first} and in {second}: not used",)
    with pytest.raises(StartError) as error:
        known.resolve(["vendor.com/net=x"])
    assert first in error.value.hint and second in error.value.hint
    later = cdispecs.write(str(tmp_path / "later"), "1.json", cdispecs.minimal(env=["A=later"]))
    known = registry.scan((str(tmp_path), os.path.dirname(later)))
    assert known.resolve(["vendor.com/net=x"])[0].spec.path == later


def test_files_that_are_no_specifications_are_told_and_do_no_harm(tmp_path):
    broken = cdispecs.write(str(tmp_path), "broken.json", "{")
    cdispecs.write(str(tmp_path), "good.json", cdispecs.minimal())
    cdispecs.write(str(tmp_path), "README.txt", "not looked at")
    known = registry.scan((str(tmp_path),))
    assert list(known.devices) == ["vendor.com/net=x"]
    assert len(known.faults) == 1 and known.faults[0].startswith(f"{broken} is not used: ")


def test_a_device_that_is_nowhere_is_told_with_all_that_there_is(tmp_path):
    cdispecs.write(str(tmp_path), "good.json", cdispecs.minimal())
    known = registry.scan((str(tmp_path), "/none"))
    with pytest.raises(StartError, match="has the devices vendor.com/net=y, a.b/c=d") as error:
        known.resolve(["vendor.com/net=y", "vendor.com/net=x", "a.b/c=d"])
    assert error.value.exit_code in (125, 126)
    assert error.value.hint == f"searched {tmp_path}, /none; there is vendor.com/net=x"
