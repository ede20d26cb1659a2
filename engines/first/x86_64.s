# The first process of a container: see __init__.py beside this file.
#
#     as -o first.o x86_64.s && objcopy -O binary -j .text first.o first.bin
#
# Calls by number: fcntl 72, rt_sigprocmask 14, rt_sigaction 13, fork 57, wait4 61,
# execve 59, write 1, exit_group 231.
.intel_syntax noprefix
.globl _start
_start:  # the descriptor to tell things to, in decimals
        lea     r12, [rsp+16]
        mov     rsi, [r12]
        xor     r13d, r13d
digit:  movzx   eax, byte ptr [rsi]
        sub     eax, 48
        js      ready
        imul    r13d, r13d, 10
        add     r13d, eax
        inc     rsi
        jmp     digit
ready:  add     r12, 8                  # the candidates begin here
        mov     r14, r12
args:   mov     rax, [r14]              # the arguments, after the empty word
        add     r14, 8
        cmp     byte ptr [rax], 0
        jne     args
        mov     r15, r14
envp:   mov     rax, [r15]              # the environment, after the arguments
        add     r15, 8
        test    rax, rax
        jnz     envp
        mov     rsi, r15
        mov     rdi, r15
next:   mov     rax, [rsi]              # keep what begins with +, without it
        add     rsi, 8
        test    rax, rax
        jz      kept
        cmp     byte ptr [rax], 43
        jne     next
        inc     rax
        mov     [rdi], rax
        add     rdi, 8
        jmp     next
kept:   mov     [rdi], rax              # no more; room for what follows
        sub     rsp, 96
        mov     edi, r13d
        # F_SETFD, FD_CLOEXEC
        mov     esi, 2
        mov     edx, 1
        mov     eax, 72
        syscall
        # block all signals; keep the old mask at rsp+24
        mov     qword ptr [rsp+16], -1
        xor     edi, edi
        lea     rsi, [rsp+16]
        lea     rdx, [rsp+24]
        mov     r10d, 8
        mov     eax, 14
        syscall
        # SIGCHLD as by default, or wait4 learns nothing; the old action at rsp+64
        xor     eax, eax
        mov     [rsp+32], rax
        mov     [rsp+40], rax
        mov     [rsp+48], rax
        mov     [rsp+56], rax
        mov     edi, 17
        lea     rsi, [rsp+32]
        lea     rdx, [rsp+64]
        mov     r10d, 8
        mov     eax, 13
        syscall
        # fork
        mov     eax, 57
        syscall
        mov     ebp, eax
        neg     ebp
        test    eax, eax
        jz      child
        js      failed
        mov     ebx, eax
        mov     dword ptr [rsp], 1
        mov     [rsp+4], eax
        call    report
wait:   mov     edi, ebx                # until it has ended
        lea     rsi, [rsp+4]
        xor     edx, edx
        xor     r10d, r10d
        mov     eax, 61
        syscall
        cmp     eax, -4
        je      wait
        mov     dword ptr [rsp], 3
        call    report
        mov     edi, [rsp+4]
        mov     eax, edi
        shr     edi, 8
        and     eax, 127
        jz      quit
        lea     edi, [rax+128]
quit:   mov     eax, 231                # as a shell has it: 128 and the signal
        syscall
child:  mov     edi, 17                 # signals as they were
        lea     rsi, [rsp+64]
        xor     edx, edx
        mov     r10d, 8
        mov     eax, 13
        syscall
        mov     edi, 2
        lea     rsi, [rsp+24]
        xor     edx, edx
        mov     r10d, 8
        mov     eax, 14
        syscall
        mov     ebp, 2
try:    mov     rdi, [r12]              # execute the next candidate
        add     r12, 8
        cmp     byte ptr [rdi], 0
        je      failed
        mov     rsi, r14
        mov     rdx, r15
        mov     eax, 59
        syscall
        neg     eax
        cmp     eax, 2
        je      try
        cmp     eax, 20
        je      try
        mov     ebp, eax
        cmp     eax, 13
        je      try
failed: mov     dword ptr [rsp], 2      # tell why not
        mov     [rsp+4], ebp
        call    report
        mov     edi, 127
        jmp     quit
report: mov     edi, r13d               # tell a kind and a number
        lea     rsi, [rsp+8]
        mov     edx, 8
        mov     eax, 1
        syscall
        ret
