"""CUDA by hand, in a container: add two vectors on every GPU and check the sums.

Only ctypes and the driver's libcuda.so.1 are needed, which compiles the PTX below. Every step
prints a line; the first that fails prints the error and ends with status 1.
"""

import ctypes
import sys

COUNT = 1 << 20
THREADS = 256
PTX = b"""
.version 6.0
.target sm_50
.address_size 64

.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 sum, .param .u32 count)
{
    .reg .pred %beyond;
    .reg .f32 %x, %y;
    .reg .b32 %block, %threads, %i, %n;
    .reg .b64 %pa, %pb, %ps, %offset;

    mov.u32 %block, %ctaid.x;
    mov.u32 %threads, %ntid.x;
    mov.u32 %i, %tid.x;
    mad.lo.u32 %i, %block, %threads, %i;
    ld.param.u32 %n, [count];
    setp.ge.u32 %beyond, %i, %n;
    @%beyond bra DONE;

    ld.param.u64 %pa, [a];
    ld.param.u64 %pb, [b];
    ld.param.u64 %ps, [sum];
    cvta.to.global.u64 %pa, %pa;
    cvta.to.global.u64 %pb, %pb;
    cvta.to.global.u64 %ps, %ps;
    mul.wide.u32 %offset, %i, 4;
    add.u64 %pa, %pa, %offset;
    add.u64 %pb, %pb, %offset;
    add.u64 %ps, %ps, %offset;
    ld.global.f32 %x, [%pa];
    ld.global.f32 %y, [%pb];
    add.f32 %x, %x, %y;
    st.global.f32 [%ps], %x;
DONE:
    ret;
}
"""


class Driver:
    """libcuda.so.1, every call of which is checked."""

    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")

    def __getattr__(self, name):
        function = getattr(self.library, name)

        def call(*arguments):
            error = function(*arguments)
            if error:
                sys.exit(f"{name}: CUDA error {error}")

        return call

    def number(self, name, *arguments):
        value = ctypes.c_int()
        getattr(self, name)(ctypes.byref(value), *arguments)
        return value.value


def main():
    cuda = Driver()
    cuda.cuInit(0)
    version = cuda.number("cuDriverGetVersion")
    count = cuda.number("cuDeviceGetCount")
    say(f"CUDA {version // 1000}.{version % 1000 // 10}, {count} GPUs")
    for index in range(count):
        device = cuda.number("cuDeviceGet", index)
        name = ctypes.create_string_buffer(96)
        cuda.cuDeviceGetName(name, len(name), device)
        say(f"GPU {index}: {name.value.decode()}")
        add_on(cuda, device)
    if not count:
        sys.exit("no GPU")


def add_on(cuda, device):
    context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    cuda.cuCtxSetCurrent(context)
    cuda.cuModuleLoadData(ctypes.byref(module), PTX)
    cuda.cuModuleGetFunction(ctypes.byref(function), module, b"add")
    numbers = ctypes.c_float * COUNT
    # every sum is exact in 24 bits
    first, second = numbers(*range(COUNT)), numbers(*range(COUNT, 0, -1))
    size = ctypes.c_size_t(ctypes.sizeof(numbers))
    places = [ctypes.c_uint64() for _ in range(3)]
    for place in places:
        cuda.cuMemAlloc_v2(ctypes.byref(place), size)
    for place, values in zip(places, (first, second)):
        cuda.cuMemcpyHtoD_v2(place, values, size)
    given = [*places, ctypes.c_uint32(COUNT)]
    pointers = (ctypes.c_void_p * 4)(*(ctypes.addressof(value) for value in given))
    blocks = (COUNT + THREADS - 1) // THREADS
    cuda.cuLaunchKernel(function, blocks, 1, 1, THREADS, 1, 1, 0, None, pointers, None)
    cuda.cuCtxSynchronize()
    sums = numbers()
    cuda.cuMemcpyDtoH_v2(sums, places[2], size)
    wrong = sum(value != COUNT for value in sums)
    if wrong:
        sys.exit(f"{wrong} of {COUNT} sums are wrong")
    say(f"{COUNT} sums are right")


def say(text):
    print(text, flush=True)


main()
