"""What is a specification of devices and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu import cdispecs
from udocker.nvidia.cdi import names, spec

MINIMAL = cdispecs.minimal()
EDITS = ("devices", 0, "containerEdits")
NODE = {"path": "/dev/x"}
MOUNT = {"hostPath": "/a", "containerPath": "/b"}
HOOK = {"hookName": "createContainer", "path": "/bin/x"}


@pytest.mark.parametrize(
    "value", [MINIMAL, cdispecs.nvidia(), cdispecs.nvidia(gpus=8), cdispecs.amd(), cdispecs.intel()]
)
def test_what_vendors_write_is_valid(value):
    assert spec.parse(value).kind == value["kind"]


def test_every_field_has_its_place():
    node = {
        **NODE,
        **{"hostPath": "/dev/y", "type": "c", "major": 1, "minor": 5, "fileMode": 438},
        **{"permissions": "rw", "uid": 0, "gid": 44},
    }
    mount = {**MOUNT, "options": ["ro", "nosuid"], "type": "bind"}
    hook = {**HOOK, "args": ["x", "y"], "env": ["A=1"], "timeout": 3}
    rdt = {"closID": "a", "l3CacheSchema": "b", "memBwSchema": "c", "schemata": ["d"]}
    rdt.update(enableMonitoring=True, enableCMT=False)
    value = {
        "cdiVersion": "1.1.0",
        "kind": "vendor.com/net.fast",
        "annotations": {"a": "b"},
        "containerEdits": {
            "env": ["A=1", "B=", "C=x=y"],
            "deviceNodes": [node],
            "mounts": [mount],
            "hooks": [hook],
            "additionalGids": [44, 0],
            "intelRdt": rdt,
            "netDevices": [{"hostInterfaceName": "eth1", "name": "eth0"}],
        },
        "devices": [{"name": "0", "annotations": {}, "containerEdits": {"env": ["D=1"]}}],
    }
    made = spec.parse(value, "/etc/cdi/x.json")
    assert made == spec.Spec(
        version="1.1.0",
        kind="vendor.com/net.fast",
        devices=(spec.Device("0", spec.Edits(env=(("D", "1"),))),),
        edits=spec.Edits(
            env=(("A", "1"), ("B", ""), ("C", "x=y")),
            nodes=(spec.Node("/dev/x", "/dev/y", "c", 1, 5, "rw"),),
            mounts=(spec.Mount("/a", "/b", ("ro", "nosuid"), "bind"),),
            hooks=(spec.Hook("createContainer", "/bin/x", ("x", "y"), ("A=1",)),),
            gids=(44,),
            needs_root=("intelRdt", "netDevices"),
        ),
        path="/etc/cdi/x.json",
    )


def test_null_is_the_same_as_absent():
    value = {**MINIMAL, "containerEdits": None, "annotations": None}
    assert spec.parse(value) == spec.parse(MINIMAL)


def test_what_says_nothing_is_of_every_version():
    empty = {"additionalGids": [], "hooks": [], "intelRdt": None}
    value = {**cdispecs.minimal(version="0.3.0"), "annotations": {}, "containerEdits": empty}
    assert spec.parse(value) == spec.parse(cdispecs.minimal(version="0.3.0"))


def test_a_node_without_permissions_only_shows():
    value = cdispecs.minimal(deviceNodes=[{**NODE, "permissions": "none"}])
    assert spec.parse(value).devices[0].edits.nodes[0].permissions == spec.NO_PERMISSIONS


INVALID = [
    # where, what stands there, what the error says
    ((), [], "the document: an object is wanted, not a list|no cdiVersion"),
    (("cdiVersion",), ..., "there is no cdiVersion"),
    (("cdiVersion",), "0.2.0", "cdiVersion '0.2.0' is not known"),
    (("cdiVersion",), "2.0.0", "known: 0.3.0 to"),
    (("cdiVersion",), "v0.5.0", "cdiVersion 'v0.5.0' is not known"),
    (("cdiVersion",), 1, "cdiVersion '1' is not known"),
    (("cdiVersion",), [], "is not known"),
    (("kind",), ..., "kind is missing"),
    (("kind",), "", "kind is empty"),
    (("kind",), 3, "kind: a string is wanted, not a number"),
    (("kind",), "vendor.com", "is not VENDOR/CLASS"),
    (("kind",), "1vendor.com/net", "does not begin with a letter"),
    (("kind",), "vendor.com/", "has no class"),
    (("kind",), "/net", "has no vendor"),
    (("kind",), "vendor.com/net-", "does not end with a letter or digit"),
    (("kind",), "vendor.com/n t", "more than letters, digits"),
    (("kind",), "vendor.com/net/x", "more than letters, digits"),
    (("kind",), "v" * 300 + "/net", "more than 255 characters"),
    (("kind",), "vendor.com/a.b", "a dot in the class of the kind needs cdiVersion 0.6.0"),
    (("devices",), ..., "devices: there is none"),
    (("devices",), [], "devices: there is none"),
    (("devices",), {}, "devices: a list is wanted, not an object"),
    (("devices",), [3], r"devices\[0\]: an object is wanted, not a number"),
    (("devices",), MINIMAL["devices"] * 2, "devices: 'x' is there twice"),
    (("devices",), MINIMAL["devices"] * 5000, "more than 4096 entries"),
    (("devices", 0, "name"), ..., r"devices\[0\].name is missing"),
    (("devices", 0, "name"), "-a", "does not begin and end with a letter or digit"),
    (("devices", 0, "name"), "a/b", "more than letters, digits"),
    (("devices", 0, "name"), "a=b", "more than letters, digits"),
    (("devices", 0, "name"), True, "a string is wanted, not true or false"),
    (("devices", 0, "name"), "a\0b", "no such text"),
    (("devices", 0, "name"), "\u0660", "does not begin and end"),
    (("devices", 0, "more"), 1, r"unknown field 'more' in devices\[0\]"),
    (("more",), 1, "unknown field 'more'$"),
    (("containeredits",), {}, "unknown field 'containeredits'"),
    (EDITS, ..., "the device 'x' has no edits"),
    (EDITS, {}, "the device 'x' has no edits"),
    (EDITS, [], r"devices\[0\].containerEdits: an object is wanted"),
    ((*EDITS, "devicenodes"), [], "unknown field 'devicenodes'"),
    ((*EDITS, "env"), "A=1", "env: a list is wanted, not a string"),
    ((*EDITS, "env"), ["A"], "'A' is not NAME=VALUE"),
    ((*EDITS, "env"), ["=A"], "'=A' is not NAME=VALUE"),
    ((*EDITS, "env"), [1], r"env\[0\]: a string is wanted, not a number"),
    ((*EDITS, "env"), ["A=" + "x" * 70000], "no such text"),
    ((*EDITS, "deviceNodes"), [{}], r"deviceNodes\[0\].path is missing"),
    ((*EDITS, "deviceNodes"), [{"path": "dev/x"}], "'dev/x' is not an absolute path"),
    ((*EDITS, "deviceNodes"), [{**NODE, "type": "x"}], "'x' is none of b, c, u, p"),
    ((*EDITS, "deviceNodes"), [{**NODE, "permissions": "rx"}], "more than r, w and m"),
    ((*EDITS, "deviceNodes"), [{**NODE, "major": "1"}], "major: an integer is wanted"),
    ((*EDITS, "deviceNodes"), [{**NODE, "minor": -1}], "-1 is no number of 32 bits"),
    ((*EDITS, "deviceNodes"), [{**NODE, "minor": 1 << 40}], "no number of 32 bits"),
    ((*EDITS, "deviceNodes"), [{**NODE, "uid": 1.5}], "uid: an integer is wanted, not a number"),
    ((*EDITS, "deviceNodes"), [{**NODE, "gid": True}], "gid: an integer is wanted"),
    ((*EDITS, "deviceNodes"), [{**NODE, "mode": 1}], "unknown field 'mode'"),
    ((*EDITS, "mounts"), [{"hostPath": "/a"}], "containerPath is missing"),
    ((*EDITS, "mounts"), [{"containerPath": "/a"}], "hostPath is missing"),
    ((*EDITS, "mounts"), [{**MOUNT, "containerPath": "b"}], "not an absolute path"),
    ((*EDITS, "mounts"), [{**MOUNT, "options": "ro"}], "options: a list is wanted"),
    ((*EDITS, "mounts"), [{**MOUNT, "readonly": True}], "unknown field 'readonly'"),
    ((*EDITS, "hooks"), [{"path": "/bin/x"}], "hookName is missing"),
    ((*EDITS, "hooks"), [{**HOOK, "hookName": "x"}], "'x' is none of prestart"),
    ((*EDITS, "hooks"), [{"hookName": "poststop"}], "path is missing"),
    ((*EDITS, "hooks"), [{**HOOK, "env": ["A"]}], "is not NAME=VALUE"),
    ((*EDITS, "hooks"), [{**HOOK, "timeout": "1"}], "timeout: an integer is wanted"),
    ((*EDITS, "additionalGids"), ["video"], "additionalGids.0.: an integer is wanted"),
]
LATER = [
    ("0.3.0", (*EDITS, "mounts"), [{**MOUNT, "type": "bind"}], "0.4.0"),
    ("0.4.0", (*EDITS, "deviceNodes"), [{**NODE, "hostPath": "/dev/y"}], "0.5.0"),
    ("0.4.0", ("devices", 0, "name"), "0", "0.5.0"),
    ("0.5.0", ("annotations",), {"a": "b"}, "0.6.0"),
    ("0.5.0", ("devices", 0, "annotations"), {"a": "b"}, "0.6.0"),
    ("0.5.0", ("kind",), "vendor.com/net.x", "0.6.0"),
    ("0.6.0", (*EDITS, "additionalGids"), [44], "0.7.0"),
    ("0.6.0", (*EDITS, "intelRdt"), {"closID": "a"}, "0.7.0"),
    ("1.0.0", (*EDITS, "intelRdt"), {"schemata": []}, "1.1.0"),
    ("1.0.0", (*EDITS, "netDevices"), [{"hostInterfaceName": "a", "name": "b"}], "1.1.0"),
]


@pytest.mark.parametrize(("path", "to", "says"), INVALID)
def test_what_is_no_specification_is_refused_with_its_place(path, to, says):
    value = cdispecs.changed(MINIMAL, path, to) if path else to
    with pytest.raises(ValueError, match=says):
        spec.parse(value)


@pytest.mark.parametrize(("version", "path", "to", "since"), LATER)
def test_a_field_counts_from_the_version_that_brought_it(version, path, to, since):
    old = cdispecs.changed(cdispecs.minimal(version=version), path, to)
    with pytest.raises(ValueError, match=f"needs cdiVersion {since}, but the file says {version}"):
        spec.parse(old)
    new = cdispecs.changed(cdispecs.minimal(version=since), path, to)
    assert spec.parse(new).version == since


@pytest.mark.parametrize(
    "text",
    ["vendor.com/net=x", "nvidia.com/gpu=all", "a/b=0", "v.x/c_1=a:b.c-d_e", "nvidia.com/gpu=0:1"],
)
def test_a_qualified_name_is_a_kind_and_a_device(text):
    assert names.is_qualified(text)
    assert str(names.parse(text)) == text


@pytest.mark.parametrize("text", ["vendor.com/net", "vendor.com/net=", "net=x", "/dev/x", "x=y/z"])
def test_other_words_are_no_qualified_names(text):
    with pytest.raises(ValueError, match="."):
        names.parse(text)


def test_a_path_is_never_taken_for_a_qualified_name():
    for path in ("/dev/a=b", "./a/b=c", "../a/b=c", "/dev/vendor.com/net=x"):
        assert not names.is_qualified(path)


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


def _ways(value, way=()):
    """Return the ways to all members of a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, member in inner:
        found.append((*way, key))
        if isinstance(member, (dict, list)):
            found += _ways(member, (*way, key))
    return found


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_ways(cdispecs.nvidia())), JSON)
def test_whatever_stands_in_a_file_the_answer_is_a_specification_or_the_reason(way, junk):
    try:
        made = spec.parse(cdispecs.changed(cdispecs.nvidia(), way, junk))
    except ValueError as error:
        assert str(error) and len(str(error)) < 500
    else:
        assert isinstance(made, spec.Spec)
