"""The OpenCL platforms that a container's loader finds: a line for each."""

import ctypes
import sys

NAME = 0x0902
try:
    opencl = ctypes.CDLL("libOpenCL.so.1")
except OSError as error:
    sys.exit(f"no loader: {error}")
count = ctypes.c_uint()
error = opencl.clGetPlatformIDs(0, None, ctypes.byref(count))
if error:
    sys.exit(f"clGetPlatformIDs: OpenCL error {error}")
platforms = (ctypes.c_void_p * count.value)()
opencl.clGetPlatformIDs(count, platforms, None)
for platform in platforms:
    name = ctypes.create_string_buffer(256)
    opencl.clGetPlatformInfo(
        ctypes.c_void_p(platform), NAME, ctypes.c_size_t(len(name)), name, None
    )
    print(name.value.decode())
