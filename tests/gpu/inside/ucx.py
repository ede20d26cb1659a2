"""What UCX finds, in a container, and from which files it has the driver.

`ucx.py DIRECTORY` prints the components of UCX in DIRECTORY (LD_LIBRARY_PATH holds it), why its
CUDA plug-in could not be loaded, and the host's driver libraries that are mapped.
"""

import ctypes
import os
import sys


class Attributes(ctypes.Structure):
    """`uct_component_attr_t`, as far as its name. Source: uct/api/uct.h of UCX 1.22."""

    _fields_ = [
        ("field_mask", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
        ("rest", ctypes.c_char * 256),
    ]


def components():
    uct = ctypes.CDLL("libuct.so.0")
    found, count = ctypes.POINTER(ctypes.c_void_p)(), ctypes.c_uint()
    assert uct.uct_query_components(ctypes.byref(found), ctypes.byref(count)) == 0
    for number in range(count.value):
        attributes = Attributes(field_mask=1)
        uct.uct_component_query(ctypes.c_void_p(found[number]), ctypes.byref(attributes))
        yield attributes.name.decode()


def failure(path):
    own = ctypes.CDLL(None)
    own.dlopen.restype, own.dlopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    own.dlerror.restype = ctypes.c_char_p
    # ctypes itself wants every symbol at once, which UCX does not
    return "" if own.dlopen(path.encode(), os.RTLD_LAZY) else own.dlerror().decode()


def mapped():
    with open("/proc/self/maps", encoding="utf-8") as file:
        paths = {line.split()[-1] for line in file}
    names = ("libcuda.so", "libnvidia-ml.so")
    return sorted(path for path in paths if os.path.basename(path).startswith(names))


print("components:", *components())
print("plug-in:", failure(f"{sys.argv[1]}/ucx/libuct_cuda.so.0"))
print("driver:", *mapped())
