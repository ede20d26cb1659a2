# What a loader of PRoot does first: see __init__.py beside this file.
#
#     as -o heap.o x86_64.s && objcopy -O binary -j .text heap.o heap.bin
#
# The call is brk, 12. What the loader is given lies in rdi.
.intel_syntax noprefix
        push    rdi
        mov     edi, 1                  # no such end: the kernel returns the present one
        mov     eax, 12
        syscall
        mov     rdi, rax                # which it is told to keep
        mov     eax, 12
        syscall
        pop     rdi
