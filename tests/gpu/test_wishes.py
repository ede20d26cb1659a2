"""What images and users say about GPUs in NVIDIA's variables, and what it means."""

from __future__ import annotations

import pytest

from udocker.errors import GpuError
from udocker.nvidia import wishes
from udocker.nvidia.driver import libraries
from udocker.nvidia.wishes import GpuRequest

VISIBLE = "NVIDIA_VISIBLE_DEVICES"
ALL_64_BITS = tuple(c for c in libraries.CAPABILITIES if c != "compat32")


def request(selection="auto", capabilities=(), labels=(), **env):
    return GpuRequest(selection, capabilities, tuple(env.items()), labels)


@pytest.mark.parametrize(
    ("env", "labels", "expected"),
    [
        ({}, (), False),
        ({VISIBLE: ""}, (), False),
        ({VISIBLE: " "}, (), False),
        ({VISIBLE: "void"}, (), False),
        ({VISIBLE: "0,void"}, (), False),
        ({VISIBLE: "0, void ,1"}, (), False),
        ({VISIBLE: "void", "CUDA_VERSION": "12.4"}, (), False),
        ({VISIBLE: "", "CUDA_VERSION": "12.4"}, (), False),
        ({VISIBLE: "none"}, (), True),
        ({VISIBLE: "all"}, (), True),
        ({VISIBLE: "0,1"}, (), True),
        ({"CUDA_VERSION": "12.4"}, (), True),
        ({"CUDA_VERSION": ""}, (), False),
        ({}, (("com.nvidia.volumes.needed", "nvidia_driver"),), True),
        ({}, (("com.nvidia.cuda.version", "8.0"),), True),
        ({}, (("com.nvidia.cudnn.version", "7"),), True),
        ({}, (("maintainer", "NVIDIA CORPORATION"),), False),
    ],
)
def test_an_image_asks_by_its_variables_or_labels(env, labels, expected):
    assert wishes.asks(request(labels=labels, **env)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", "auto"),
        ("nvidia.com/gpu=all", "auto"),
        ("none", "none"),
        ("0", "0"),
        (" 0, 1 ,", "0,1"),
        ("0:1", "0:1"),
        ("GPU-x,MIG-y", "GPU-x,MIG-y"),
        ("nvidia.com/gpu=0,nvidia.com/gpu=GPU-x", "0,GPU-x"),
        ("runtime.nvidia.com/gpu=0:1", "0:1"),
        ("0000:1b:00.0", "0000:1b:00.0"),
    ],
)
def test_the_variable_selects_in_every_form(text, expected):
    wish = wishes.read(request(**{VISIBLE: text}))
    assert wish.selection == expected
    assert wish.whole_names


def test_devices_of_other_kinds_are_refused_with_the_way_out():
    with pytest.raises(GpuError, match="no GPU of NVIDIA's") as caught:
        wishes.read(request(**{VISIBLE: "amd.com/gpu=0"}))
    assert "--device amd.com/gpu=0" in caught.value.hint


def test_the_users_selection_beats_the_images():
    wish = wishes.read(request("1", **{VISIBLE: "void"}))
    assert (wish.selection, wish.whole_names) == ("1", False)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, ("compute", "utility")),
        ({"NVIDIA_DRIVER_CAPABILITIES": ""}, ("compute", "utility")),
        ({"NVIDIA_DRIVER_CAPABILITIES": " utility , "}, ("utility",)),
        ({"NVIDIA_DRIVER_CAPABILITIES": "video"}, ("compute", "video")),
        ({"NVIDIA_DRIVER_CAPABILITIES": "display"}, ("graphics", "display")),
        ({"NVIDIA_DRIVER_CAPABILITIES": "compute,compat32"}, ("compute", "compat32")),
        ({"CUDA_VERSION": "9.0"}, ALL_64_BITS),
        ({"CUDA_VERSION": "9.0", "NVIDIA_REQUIRE_CUDA": "cuda>=9.0"}, ("compute", "utility")),
        ({"CUDA_VERSION": "9.0", "NVIDIA_DRIVER_CAPABILITIES": "utility"}, ("utility",)),
    ],
)
def test_capabilities_are_the_images_else_the_usual_ones(env, expected):
    assert wishes.read(request(**env)).capabilities[: len(expected)] == expected


def test_all_capabilities_are_more_than_the_usual_ones():
    wish = wishes.read(request(NVIDIA_DRIVER_CAPABILITIES="all"))
    assert set(wish.capabilities) >= set(ALL_64_BITS)


def test_the_users_capabilities_beat_the_images():
    made = request("all", ("utility",), NVIDIA_DRIVER_CAPABILITIES="cheese")
    assert wishes.read(made).capabilities == ("utility",)


def test_an_unknown_capability_is_told_with_its_variable():
    with pytest.raises(GpuError, match="NVIDIA_DRIVER_CAPABILITIES: 'cheese'") as caught:
        wishes.read(request(NVIDIA_DRIVER_CAPABILITIES="utility,cheese"))
    assert "--gpu-caps" in caught.value.hint


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, ()),
        ({"NVIDIA_GDS": "enabled", "NVIDIA_MOFED": "disabled"}, ("gds",)),
        ({"NVIDIA_GDRCOPY": "enabled", "NVIDIA_NVSWITCH": "enabled"}, ("gdrcopy", "nvswitch")),
        ({"NVIDIA_MIG_CONFIG_DEVICES": "all"}, ("mig-config",)),
        ({"NVIDIA_MIG_MONITOR_DEVICES": "0"}, ()),
    ],
)
def test_further_nodes_are_wanted_by_their_variables(env, expected):
    assert wishes.read(request("all", **env)).opened == expected


@pytest.mark.parametrize(
    ("text", "channels", "has_note"),
    [
        ("", (), False),
        ("all", (), False),
        ("0,2048,0", (0, 2048), False),
        ("1,x", (1,), True),
        ("1048576", (), True),
        ("-1", (), True),
        ("9" * 5000, (), True),
    ],
)
def test_channels_are_numbers(text, channels, has_note):
    wish = wishes.read(request(NVIDIA_IMEX_CHANNELS=text))
    assert wish.channels == channels
    assert bool(wish.notes) == has_note


@pytest.mark.parametrize("text", ["1", "true", "T", "TRUE", " yes "])
def test_yes_has_many_words(text):
    assert wishes.is_true(text)
    assert not any(map(wishes.is_true, ("", "0", "false", "no", "2")))
