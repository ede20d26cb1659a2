// The asker: see __init__.py beside this file.
//
//     as -o asker.o aarch64.s && objcopy -O binary -j .text asker.o asker.bin
.globl _start
_start: mov     x19, sp                 // argc, argv
        sub     sp, sp, #64
        mov     x20, #0x410000          // the first entry
entry:  ldr     x21, [x20, #8]
        mov     x9, #0
        add     x10, x20, #16
arg:    ldr     x11, [x10, x9, lsl #3]
        and     x12, x21, #3
        lsr     x21, x21, #2
        cbz     x12, ready              // 0: itself
        cmp     x12, #2
        b.eq    half
        b.lo    wide
        add     x11, x19, x11, lsl #3   // 3: a word of the command line
        ldr     x11, [x11, #8]
        b       ready
wide:   ldr     x11, [x11]              // 1: 64 bits in memory
        b       ready
half:   ldr     w11, [x11]              // 2: 32 bits in memory
ready:  str     x11, [sp, x9, lsl #3]
        add     x9, x9, #1
        cmp     x9, #6
        b.lo    arg
        ldp     x0, x1, [sp]
        ldp     x2, x3, [sp, #16]
        ldp     x4, x5, [sp, #32]
        ldr     x8, [x20]
        cmn     x8, #1
        b.eq    store
        cmn     x8, #2
        b.eq    load
        cmn     x8, #3
        b.eq    add
        svc     #0
done:   str     x0, [x20, #64]
        add     x20, x20, #72
        b       entry
store:  str     x2, [x0, x1]
        b       done
load:   ldr     w0, [x0, x1]
        b       done
add:    add     x0, x0, x1
        b       done
