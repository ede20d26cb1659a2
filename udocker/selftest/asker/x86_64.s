# The asker: see __init__.py beside this file.
#
#     as -o asker.o x86_64.s && objcopy -O binary -j .text asker.o asker.bin
.intel_syntax noprefix
.globl _start
_start: mov     r12, rsp                # argc, argv
        sub     rsp, 64
        mov     r13d, 0x410000          # the first entry
entry:  mov     rbx, [r13+8]
        xor     ecx, ecx
arg:    mov     rdx, [r13+16+rcx*8]
        mov     eax, ebx
        and     eax, 3
        shr     rbx, 2
        cmp     eax, 1
        jb      ready                   # 0: itself
        je      wide                    # 1: 64 bits in memory
        cmp     eax, 2
        je      half                    # 2: 32 bits in memory
        mov     rdx, [r12+8+rdx*8]      # 3: a word of the command line
        jmp     ready
wide:   mov     rdx, [rdx]
        jmp     ready
half:   mov     edx, [rdx]
ready:  mov     [rsp+rcx*8], rdx
        inc     ecx
        cmp     ecx, 6
        jb      arg
        mov     rdi, [rsp]
        mov     rsi, [rsp+8]
        mov     rdx, [rsp+16]
        mov     r10, [rsp+24]
        mov     r8, [rsp+32]
        mov     r9, [rsp+40]
        mov     rax, [r13]
        cmp     rax, -1
        je      store
        cmp     rax, -2
        je      load
        cmp     rax, -3
        je      add
        syscall
done:   mov     [r13+64], rax
        add     r13, 72
        jmp     entry
store:  mov     [rdi+rsi], rdx
        jmp     done
load:   mov     eax, [rdi+rsi]
        jmp     done
add:    lea     rax, [rdi+rsi]
        jmp     done
