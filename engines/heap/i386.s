# What a loader of PRoot does first: see __init__.py beside this file.
#
#     as --32 -o heap.o i386.s && objcopy -O binary -j .text heap.o heap.bin
#
# The call is brk, 45. What the loader is given lies in eax.
.intel_syntax noprefix
        push    eax
        push    ebx
        mov     ebx, 1                  # no such end: the kernel returns the present one
        mov     eax, 45
        int     0x80
        mov     ebx, eax                # which it is told to keep
        mov     eax, 45
        int     0x80
        pop     ebx
        pop     eax
