"""What other unpackers check of themselves: the same layers, and the trees that they expect.

The cases are facts of containerd (pkg/archive/tar_test.go), umoci (oci/layer/tar_extract_test.go),
containers/storage (pkg/archive/diff_test.go, with moby's malicious archives), charliecloud
(test/whiteout) and apptainer (e2e/docker). Where ours differs on purpose, a comment says so.
"""

import os
import pathlib

import pytest
from tarballs import archive, contents, file, folder, hard_link, merged, snapshot, symlink

from udocker.errors import UnpackError

ETC = [folder("etc", mode=0o770), file("/etc/passwd", b"inside")]
ETC_TREE = {"etc": None, "etc/passwd": "inside"}

CONTAINERD = {
    "SymlinkAbsolute": (
        [[folder("etc"), symlink("localetc", "/etc"), file("/localetc/unbroken", b"unbroken")]],
        {"etc": None, "etc/unbroken": "unbroken", "localetc": "-> /etc"},
    ),
    "SymlinkUpAndOut": (
        [
            [
                folder("etc"),
                folder("dummy"),
                symlink("localetc", "/dummy/../etc"),
                file("/localetc/unbroken", b"unbroken"),
            ]
        ],
        {
            "etc": None,
            "etc/unbroken": "unbroken",
            "dummy": None,
            "localetc": "-> /dummy/../etc",
        },
    ),
    "SymlinkMultipleAbsolute": (
        [
            [
                folder("etc"),
                folder("dummy"),
                symlink("/dummy/etc", "/etc"),
                symlink("localetc", "/dummy/etc"),
                file("/dummy/etc/unbroken", b"unbroken"),
            ]
        ],
        {
            "etc": None,
            "etc/unbroken": "unbroken",
            "dummy": None,
            "dummy/etc": "-> /etc",
            "localetc": "-> /dummy/etc",
        },
    ),
    "SymlinkEmptyFile": (
        [
            [
                folder("etc"),
                file("etc/emptied", b"notempty"),
                symlink("localetc", "/etc"),
                file("/localetc/emptied"),
            ]
        ],
        {"etc": None, "etc/emptied": "", "localetc": "-> /etc"},
    ),
    "HardlinkRelative": (
        [
            [
                *ETC,
                folder("breakouts"),
                symlink("breakouts/d1", "../../etc"),
                hard_link("breakouts/mypasswd", "/breakouts/d1/passwd"),
            ]
        ],
        {
            **ETC_TREE,
            "breakouts": None,
            "breakouts/d1": "-> ../../etc",
            "breakouts/mypasswd": "inside",
        },
    ),
    "HardlinkDownAndOut": (
        [
            [
                *ETC,
                folder("breakouts"),
                folder("downandout"),
                symlink("breakouts/d1", "../downandout/../../etc"),
                hard_link("breakouts/mypasswd", "/breakouts/d1/passwd"),
            ]
        ],
        {
            **ETC_TREE,
            "breakouts": None,
            "downandout": None,
            "breakouts/d1": "-> ../downandout/../../etc",
            "breakouts/mypasswd": "inside",
        },
    ),
    "HardlinkAbsolute": (
        [[*ETC, symlink("localetc", "/etc"), hard_link("localpasswd", "/localetc/passwd")]],
        {**ETC_TREE, "localetc": "-> /etc", "localpasswd": "inside"},
    ),
    "HardlinkRelativeLong": (
        [
            [
                *ETC,
                symlink("localetc", "../../../../../../../etc"),
                hard_link("localpasswd", "/localetc/passwd"),
            ]
        ],
        {**ETC_TREE, "localetc": "-> ../../../../../../../etc", "localpasswd": "inside"},
    ),
    "HardlinkRelativeUpAndOut": (
        [
            [
                *ETC,
                symlink("localetc", "upandout/../../../etc"),
                hard_link("localpasswd", "/localetc/passwd"),
            ]
        ],
        {**ETC_TREE, "localetc": "-> upandout/../../../etc", "localpasswd": "inside"},
    ),
    "HardlinkDirectRelative": (
        [[*ETC, hard_link("localpasswd", "../../../../../etc/passwd")]],
        {**ETC_TREE, "localpasswd": "inside"},
    ),
    "HardlinkDirectAbsolute": (
        [[*ETC, hard_link("localpasswd", "/etc/passwd")]],
        {**ETC_TREE, "localpasswd": "inside"},
    ),
    "SymlinkParentDirectory": (
        [[*ETC, symlink("..", "/etc/"), hard_link("localpasswd", "/etc/passwd")]],
        {**ETC_TREE, "localpasswd": "inside"},
    ),
    "SymlinkEmptyFilename": (
        [[*ETC, symlink("", "/etc/"), hard_link("localpasswd", "/etc/passwd")]],
        {**ETC_TREE, "localpasswd": "inside"},
    ),
    "SymlinkParentRelative": (
        [
            [
                *ETC,
                symlink("localetc/sub/..", "/etc/"),
                hard_link("/localetc/localpasswd", "/etc/passwd"),
            ]
        ],
        {**ETC_TREE, "localetc": "-> /etc/", "etc/localpasswd": "inside"},
    ),
    "SymlinkSlashEnded": (
        [
            [
                *ETC,
                folder("localetc/", mode=0o770),
                hard_link("/localetc/localpasswd", "/etc/passwd"),
            ]
        ],
        {**ETC_TREE, "localetc": None, "localetc/localpasswd": "inside"},
    ),
    "SymlinkOverrideDirectory": (
        [
            [*ETC, folder("/localetc/")],
            [symlink("localetc", "/etc"), hard_link("/localetc/localpasswd", "/etc/passwd")],
        ],
        {**ETC_TREE, "localetc": "-> /etc", "etc/localpasswd": "inside"},
    ),
    "SymlinkOverrideDirectoryRelative": (
        [
            [*ETC, folder("/localetc/")],
            [symlink("localetc", "../../etc"), hard_link("/localetc/localpasswd", "/etc/passwd")],
        ],
        {**ETC_TREE, "localetc": "-> ../../etc", "etc/localpasswd": "inside"},
    ),
    "DirectoryOverrideSymlink": (
        [
            [*ETC, symlink("localetc", "/etc")],
            [folder("/localetc/"), hard_link("/localetc/localpasswd", "/etc/passwd")],
        ],
        {**ETC_TREE, "localetc": None, "localetc/localpasswd": "inside"},
    ),
    "DirectoryOverrideSymlinkAndHardlink": (
        [
            [*ETC, symlink("localetc", "etc"), hard_link("/localetc/localpasswd", "/etc/passwd")],
            [folder("/localetc/"), file("/localetc/localpasswd", b"different")],
        ],
        {
            **ETC_TREE,
            "etc/localpasswd": "inside",
            "localetc": None,
            "localetc/localpasswd": "different",
        },
    ),
    "WhiteoutRootParent": ([ETC, [file(".wh...")]], None),
    "WhiteoutParent": ([ETC, [file("etc/.wh...")]], None),
    "WhiteoutRoot": ([ETC, [file(".wh..")]], None),
    "WhiteoutCurrentDirectory": ([ETC, [file("etc/.wh..")]], None),
    "WhiteoutSymlink": ([[*ETC, symlink("localetc", "/etc")], [file(".wh.localetc")]], ETC_TREE),
    "WhiteoutSymlinkPath": (
        [
            [*ETC, file("/etc/whitedout", b"x"), symlink("localetc", "/etc")],
            [file("localetc/.wh.whitedout")],
        ],
        {**ETC_TREE, "localetc": "-> /etc"},
    ),
    # containerd makes such a directory, which no layer could ever hide or hold again.
    "WhiteoutDirectoryName": ([ETC, [file(".wh.etc/somefile", b"non-empty")]], None),
    "WhiteoutDeadSymlinkParent": (
        [[*ETC, symlink("localetc", "/dne")], [file("localetc/.wh.etc")]],
        {**ETC_TREE, "localetc": "-> /dne"},
    ),
    "WhiteoutRelativePath": (
        [[*ETC, symlink("localetc", "/dne")], [file("dne/../.wh.etc")]],
        {"localetc": "-> /dne"},
    ),
    "HardlinkSymlinkBeforeCreateTarget": (
        [
            [
                folder("etc"),
                symlink("localpasswd", "/etc/passwd"),
                hard_link("localpasswd-dup", "localpasswd"),
                file("/etc/passwd", b"after"),
            ]
        ],
        {
            "etc": None,
            "etc/passwd": "after",
            "localpasswd": "-> /etc/passwd",
            "localpasswd-dup": "-> /etc/passwd",
        },
    ),
    "HardlinkSymlinkRelative": (
        [
            [
                *ETC,
                symlink("passwdlink", "../../../../../etc/passwd"),
                hard_link("localpasswd", "/passwdlink"),
            ]
        ],
        {
            **ETC_TREE,
            "passwdlink": "-> ../../../../../etc/passwd",
            "localpasswd": "-> ../../../../../etc/passwd",
        },
    ),
    "HardlinkSymlinkChmod": (
        [[symlink("/out/exists", "/out/perm400"), hard_link("sketchy", "/out/exists")]],
        {"out": None, "out/exists": "-> /out/perm400", "sketchy": "-> /out/perm400"},
    ),
    "DirectoryCreation": (
        [
            [folder("/etc/")],
            [
                folder("/etc/subdir"),
                folder("/etc/subdir2/"),
                folder("/etc/subdir2/more"),
                folder("/other/noparent-1/1"),
                folder("/other/noparent-2/2/"),
            ],
        ],
        dict.fromkeys(
            [
                *("etc", "etc/subdir", "etc/subdir2", "etc/subdir2/more", "other"),
                *("other/noparent-1", "other/noparent-1/1"),
                *("other/noparent-2", "other/noparent-2/2"),
            ]
        ),
    ),
}

UMOCI = {
    **{
        f"SanitiseScoping {prefix}": ([[file(f"/{prefix}/file", b"x")]], {"file": "x"})
        for prefix in ("..", "/..", "../../../../..", "./.././.././..")
    },
    **{
        f"SymlinkScoping {target}": (
            [[symlink("link", target)], [file("link/file", b"x")]],
            {"link": f"-> {target}", "file": "x"},
        )
        for target in ("/", "/../", "/" + "../" * 15, "/" + "./../" * 8, "..")
    },
    "ParentDir": (
        [[file("a/b/c/file", b"x")]],
        {"a": None, "a/b": None, "a/b/c": None, "a/b/c/file": "x"},
    ),
    # A file or a link in the way of a directory gives way.
    "NonDirParent file": ([[file("a", b"x")], [file("a/b", b"y")]], {"a": None, "a/b": "y"}),
    "NonDirParent link": (
        [[symlink("a", "f"), file("f", b"x")], [folder("a"), file("a/b", b"y")]],
        {"a": None, "a/b": "y", "f": "x"},
    ),
    **{
        f"Whiteout {path}": (
            [[file(path + end, b"x")], [file(f"{directory}.wh.{name}")]],
            {
                parent: None
                for parent in ("some", "some/path", "another", "another/path")
                if directory.startswith(parent)
            },
        )
        for path in ("rootpath", ".hiddenroot", "some/path/file", "another/path/.hiddenfile")
        for end in ("", "/.sub/f")
        for directory, _, name in [path.rpartition("/")]
        for directory in [f"{directory}/" if directory else ""]
    },
    "OpaqueWhiteout": (
        [
            [file("d/lower", b"1"), file("d/sub/lower", b"1"), file("e/lower", b"1")],
            [file("d/upper", b"2"), file("d/.wh..wh..opq"), file("d/sub/upper", b"2")],
        ],
        {
            "d": None,
            "d/upper": "2",
            "d/sub": None,
            "d/sub/upper": "2",
            "e": None,
            "e/lower": "1",
        },
    ),
    "UnpackHardlink": (
        [
            [
                file("regular", b"x"),
                hard_link("hard link", "/regular"),
                symlink("link", "../../../regular"),
                hard_link("hard link to symlink", "../../../link"),
            ]
        ],
        {
            "regular": "x",
            "hard link": "x",
            "link": "-> ../../../regular",
            "hard link to symlink": "-> ../../../regular",
        },
    ),
}

# moby refuses these archives: here their paths are taken as in a container, from its root.
MOBY = {
    "InvalidFilenames ..": (
        [[file("../victim/dotdot", b"x")]],
        {"victim": None, "victim/dotdot": "x"},
    ),
    "InvalidFilenames /..": (
        [[file("/../victim/slash", b"x")]],
        {"victim": None, "victim/slash": "x"},
    ),
    "InvalidHardlink to ..": ([[hard_link("dotdot", "../victim/hello")]], None),
    "InvalidHardlink to /..": ([[hard_link("slash", "/../victim/hello")]], None),
    "InvalidHardlink, then a file": (
        [[hard_link("pwned", "../victim"), file("pwned/f", b"x")]],
        {"pwned": None, "pwned/f": "x"},
    ),
    "InvalidHardlink, then over it": (
        [[hard_link("pwned", "../victim/hello"), file("pwned", b"x")]],
        {"pwned": "x"},
    ),
    "InvalidSymlink to ..": (
        [[symlink("dotdot", "../victim/hello")]],
        {"dotdot": "-> ../victim/hello"},
    ),
    "InvalidSymlink, then below it": (
        [[symlink("loophole", "../victim"), file("loophole/f", b"x")]],
        {"loophole": "-> ../victim", "victim": None, "victim/f": "x"},
    ),
    "InvalidSymlink, then a hard link": (
        [[symlink("loophole", "../victim"), hard_link("h", "loophole/hello")]],
        None,
    ),
    "Whiteouts": (
        [
            [file("1"), file("2/f"), file("3"), file("4/5"), file("6")],
            [file(".wh.1"), file(".wh.2"), file("4/.wh.5"), file("7")],
        ],
        {"3": "", "4": None, "6": "", "7": ""},
    ),
    "dot-dot names that are none": (
        [[file("..foo", b"1"), file("a../b", b"2"), file("...", b"3")]],
        {"..foo": "1", "a..": None, "a../b": "2", "...": "3"},
    ),
}

HPC = {
    # charliecloud's image of every kind of whiteout.
    "charliecloud whiteout": (
        [
            [
                *(file(f"w/{kind}_file") for kind in ("hidden", "kept")),
                *(file(f"w/{kind}_dir/f") for kind in ("hidden", "kept", "opaque")),
                *(symlink(f"w/{kind}_link", "kept_file") for kind in ("hidden", "kept")),
            ],
            [
                *(file(f"w/.wh.hidden_{kind}") for kind in ("file", "dir", "link")),
                folder("w/opaque_dir"),
                file("w/opaque_dir/.wh..wh..opq"),
            ],
        ],
        {
            "w": None,
            "w/kept_file": "",
            "w/kept_dir": None,
            "w/kept_dir/f": "",
            "w/kept_link": "-> kept_file",
            "w/opaque_dir": None,
        },
    ),
    # apptainer's image whose whiteout hides a link, and one of AUFS.
    "apptainer link": (
        [
            [
                folder("usr/share/doc"),
                symlink("doc", "usr/share/doc"),
                file("usr/share/doc/f", b"x"),
            ],
            [file(".wh.doc"), folder("doc"), file("doc/g")],
        ],
        {
            "usr": None,
            "usr/share": None,
            "usr/share/doc": None,
            "usr/share/doc/f": "x",
            "doc": None,
            "doc/g": "",
        },
    ),
    "apptainer aufs": (
        [
            [file("dir/f"), file("other")],
            [
                file(".wh..wh.aufs"),
                folder(".wh..wh.orph"),
                file(".wh..wh.plnk/1"),
                file("dir/.wh.f"),
            ],
        ],
        {"dir": None, "other": ""},
    ),
    # Lazy pulling puts its index beside the files; whoever unpacks such a layer leaves it there.
    "estargz": (
        [[file(".no.prefetch.landmark", b"\n"), file("f", b"x"), file("stargz.index.json", b"{}")]],
        {".no.prefetch.landmark": "\n", "f": "x", "stargz.index.json": "{}"},
    ),
}

CASES = {
    f"{suite} {name}": case
    for suite, cases in (
        ("containerd", CONTAINERD),
        ("umoci", UMOCI),
        ("moby", MOBY),
        ("hpc", HPC),
    )
    for name, case in cases.items()
}


@pytest.mark.parametrize("case", CASES)
def test_peers_case_gives_the_tree_or_the_error(case, tmp_path):
    stack, expected = CASES[case]
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/hello").write_text("hello")
    (tmp_path / "work").mkdir()
    before = snapshot(tmp_path / "victim", times=True)
    try:
        tree = contents(merged(tmp_path / "work", *(archive(*layer) for layer in stack)))
    except UnpackError as error:
        tree = None
        assert error.message
    assert tree == expected
    assert snapshot(tmp_path / "victim", times=True) == before
    assert sorted(os.listdir(tmp_path)) == ["victim", "work"]


def test_hard_links_of_a_peers_case_are_one_file(tmp_path):
    stack, _ = CONTAINERD["HardlinkDownAndOut"]
    rootfs = pathlib.Path(merged(tmp_path, *(archive(*layer) for layer in stack)))
    assert os.path.samefile(rootfs / "breakouts/mypasswd", rootfs / "etc/passwd")
