"""The language of NVIDIA_REQUIRE_*: read, printed, judged."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udocker.errors import GpuError
from udocker.nvidia import cuda, requirement
from udocker.nvidia.requirement import Facts, GpuFacts

H100 = GpuFacts("9.0", "nvidia")
V100 = GpuFacts("7.0", "tesla")
NODE = Facts("580.159.04", (13, 0), (H100,))
OLD = Facts("535.183.01", (12, 2), (GpuFacts(),))
NVIDIAS = (
    "cuda>=12.8 brand=unknown,driver>=470,driver<471 brand=tesla,driver>=470,driver<471 "
    "brand=tesla,driver>=535,driver<536 brand=geforcertx,driver>=550,driver<551"
)
"""The form of what NVIDIA's images of CUDA 12.8 say."""


def states(facts, **env):
    return [verdict.state for verdict in requirement.judge(tuple(env.items()), facts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cuda>=13.0", "met"),
        ("cuda>=12", "met"),
        ("cuda=13", "met"),
        ("cuda=13.0.0", "met"),
        ("cuda>13", "minor"),
        ("cuda>=13.1", "minor"),
        ("cuda>=14.0", "unmet"),
        ("cuda<13", "unmet"),
        ("cuda!=13.0", "unmet"),
        ("CUDA>=12.4", "met"),
        ("driver>=580.159.04", "met"),
        ("driver>=580.159.5", "unmet"),
        ("driver<581", "met"),
        ("arch>=8.0", "met"),
        ("arch<9", "unmet"),
        ("brand=NVIDIA", "met"),
        ("brand!=nvidia", "unmet"),
        ("brand=tesla,driver>=535 cuda>=12", "met"),
        ("brand=tesla,driver>=535 cuda>=14", "unmet"),
        (" cuda>=14   cuda>=12 ", "met"),
        ("cuda>=12,driver<500", "unmet"),
    ],
)
def test_conditions_are_compared_number_by_number(text, expected):
    assert states(NODE, NVIDIA_REQUIRE_CUDA=text) == [expected]


def test_every_visible_gpu_must_do():
    both = Facts("580.159.04", (13, 0), (H100, V100))
    assert states(both, NVIDIA_REQUIRE_ARCH="arch>=9") == ["unmet"]
    assert states(both, NVIDIA_REQUIRE_ARCH="arch>=7") == ["met"]


def test_every_variable_counts_but_those_for_other_machines():
    env = {
        "NVIDIA_REQUIRE_CUDA": "cuda>=12",
        "NVIDIA_REQUIRE_DRIVER": "driver>=600",
        "NVIDIA_REQUIRE_JETPACK_HOST_MOUNTS": "x",
        "NVIDIA_REQUIRE_EMPTY": "",
    }
    assert states(NODE, **env) == ["met", "unmet"]
    assert states(NODE, **env, NVIDIA_DISABLE_REQUIRE="true") == []
    assert states(NODE, **env, NVIDIA_DISABLE_REQUIRE="0") == ["met", "unmet"]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (NODE, "met"),
        (Facts("570.1", (12, 8), ()), "met"),
        (Facts("550.1", (12, 4), ()), "minor"),
        (Facts("470.82.01", (11, 4), ()), "unknown"),
        (Facts("470.82.01", (11, 4), (V100,)), "met"),
        (Facts("470.82.01", (11, 4), (H100,)), "unmet"),
        (Facts("520.1", (11, 8), ()), "unmet"),
    ],
)
def test_what_nvidias_images_say_is_judged_as_nvidia_means_it(facts, expected):
    assert states(facts, NVIDIA_REQUIRE_CUDA=NVIDIAS) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cuda>=13.0", "met"),
        ("cuda>=99", "unknown"),
        ("cuda<13", "unknown"),
        ("cuda=13", "unknown"),
    ],
)
def test_of_a_driver_newer_than_known_only_the_least_is_known(text, expected):
    assert states(requirement.facts_of("999.1", 1), NVIDIA_REQUIRE_CUDA=text) == [expected]


def test_the_images_own_driver_library_brings_its_cuda():
    facts = requirement.facts_of("535.1", 2, compat=(13, 1))
    assert states(facts, NVIDIA_REQUIRE_CUDA="cuda>=13.1") == ["met"]
    assert states(requirement.facts_of("535.1", 2), NVIDIA_REQUIRE_CUDA="cuda>=13.1") == ["unmet"]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"CUDA_VERSION": "14.0.1"}, ["unmet"]),
        ({"CUDA_VERSION": "9.0.176"}, ["met"]),
        ({"CUDA_VERSION": "14.0", "NVIDIA_REQUIRE_CUDA": "cuda>=12"}, ["met"]),
        ({"CUDA_VERSION": "14.0", "NVIDIA_REQUIRE_CUDA": ""}, []),
        ({"CUDA_VERSION": "latest"}, []),
    ],
)
def test_old_images_require_the_cuda_that_they_have(env, expected):
    assert states(NODE, **env) == expected


def test_an_unmet_requirement_is_a_note_or_an_error():
    env = (("NVIDIA_REQUIRE_CUDA", "cuda>=14.1 brand=x,driver>=1,driver<2"),)
    (note,) = requirement.unmet(env, NODE)
    assert note == (
        "gpu: the image requires cuda>=14.1 (NVIDIA_REQUIRE_CUDA), "
        "this node has driver 580.159.04 with CUDA 13.0"
    )
    with pytest.raises(GpuError, match="requires cuda>=14.1") as caught:
        requirement.unmet(env, NODE, strict=True)
    assert "NVIDIA_DISABLE_REQUIRE=1" in caught.value.hint


def test_programs_of_a_newer_minor_version_run_without_a_word():
    env = (("NVIDIA_REQUIRE_CUDA", "cuda>=12.8"),)
    assert requirement.unmet(env, OLD, strict=True) == ()
    (verdict,) = requirement.judge(env, OLD)
    assert (verdict.state, verdict.reason) == ("minor", "cuda>=12.8")


@pytest.mark.parametrize(
    "text",
    [
        "cuda",
        "cuda>=",
        ">=12",
        "cuda>=x",
        "cuda>=12.",
        "cuda==12",
        "cuda=>12",
        "cuda>=12,",
        ",cuda>=12",
        "cuda >= 12",
        "brand>tesla",
        "brand==tesla",
        "colour=red",
        "cuda>=-1",
        "cuda>=¹",
        "cuda>=" + "1" * 99,
        "driver>=" + ".".join("1" * 99),
        "cuda>=1 " * 9999,
    ],
)
def test_what_is_no_requirement_is_told_with_its_variable(text):
    env = (("NVIDIA_REQUIRE_X", text),)
    (note,) = requirement.unmet(env, NODE)
    assert note.startswith("gpu: the image's NVIDIA_REQUIRE_X cannot be read: ")
    assert len(note) < 200
    with pytest.raises(GpuError, match="NVIDIA_REQUIRE_X"):
        requirement.unmet(env, NODE, strict=True)


VERSIONS = st.lists(st.integers(0, 999), min_size=1, max_size=4)
NAMES = st.sampled_from(("cuda", "driver", "arch"))
TESTS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
CONDITIONS = st.one_of(
    st.tuples(NAMES, st.sampled_from(sorted(TESTS)), VERSIONS),
    st.tuples(
        st.just("brand"), st.sampled_from(("=", "!=")), st.sampled_from(("tesla", "GeForce"))
    ),
)
REQUIREMENTS = st.lists(st.lists(CONDITIONS, min_size=1, max_size=4), min_size=1, max_size=4)


def written(condition):
    name, comparison, value = condition
    return name + comparison + (value if name == "brand" else ".".join(map(str, value)))


def naive(condition, versions, brand):
    """Return the truth as a person would say it who has four numbers for every version."""
    name, comparison, value = condition
    if name == "brand":
        return TESTS[comparison](brand.lower(), value.lower())
    return TESTS[comparison](versions[name], (value + [0] * 4)[:4])


@given(REQUIREMENTS, st.lists(VERSIONS, min_size=3, max_size=3), st.sampled_from(("Tesla", "x")))
def test_a_requirement_is_read_printed_and_judged_as_written(alternatives, has, brand):
    text = " ".join(",".join(map(written, conditions)) for conditions in alternatives)
    parsed = requirement.parse(text)
    assert str(parsed) == text
    assert requirement.parse(str(parsed)) == parsed
    cuda_version = tuple((has[0] + [0])[:2])
    versions = {
        "cuda": [*cuda_version, 0, 0],
        "driver": (has[1] + [0] * 4)[:4],
        "arch": (has[2] + [0] * 4)[:4],
    }
    holds = any(all(naive(c, versions, brand) for c in terms) for terms in alternatives)
    facts = Facts(
        ".".join(map(str, has[1])), cuda_version, (GpuFacts(".".join(map(str, has[2])), brand),)
    )
    (state,) = states(facts, NVIDIA_REQUIRE_X=text)
    assert (state == "met") == holds
    assert state in ("met", "minor", "unmet")
    (blind,) = states(Facts(facts.driver, None), NVIDIA_REQUIRE_X=text)
    assert blind != "unmet" or not holds, "what is unknown never turns the answer"
    assert blind != "met" or holds


@given(st.text(st.sampled_from("cudabrn drive=!<>.,12 \tx\u00b2"), max_size=40))
def test_no_text_does_more_than_be_wrong(text):
    try:
        parsed = requirement.parse(text)
    except ValueError:
        return
    assert requirement.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        ("580.159.04", (13, 0)),
        ("570.86.15", (12, 8)),
        ("390.157", (9, 1)),
        ("450.80.02", (11, 0)),
        ("999.1", max(cuda._OF_BRANCH.values())),
        ("300.1", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_a_driver_brings_the_cuda_of_its_branch(driver, expected):
    assert cuda.version_of(driver) == expected


def test_newer_branches_never_bring_an_older_cuda():
    versions = [cuda.version_of(f"{branch}.1") for branch in range(346, 700)]
    assert versions == sorted(versions)
