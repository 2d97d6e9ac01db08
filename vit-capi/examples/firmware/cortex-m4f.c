// A Cortex-M4F as a board: vectors, start-up, output through the debugger (semihosting).
#include "board.h"

#include <stdint.h>

extern uint32_t stack_top, data_load, data_start, data_end, bss_start, bss_end;
int main(void);

static int semihosting(int operation, const void *argument) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void print(const char *text) { semihosting(4 /* SYS_WRITE0 */, text); }

static _Noreturn void leave(int status) {
    const uint32_t reason[] = {0x20026 /* ADP_Stopped_ApplicationExit */, (uint32_t)status};
    for (;;) semihosting(0x20 /* SYS_EXIT_EXTENDED */, reason);
}

_Noreturn void fault(void) {
    print("fault\n");
    leave(1);
}

_Noreturn void reset(void) {
    // The FPU, for all code: CPACR. Nothing may use it before.
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    uint32_t *from = &data_load;
    for (uint32_t *to = &data_start; to < &data_end; to++) *to = *from++;
    for (uint32_t *to = &bss_start; to < &bss_end; to++) *to = 0;
    leave(main());
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &stack_top, reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault,
};
