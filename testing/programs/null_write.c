/* SIGSEGV: a write through a NULL pointer. */
#include <stddef.h>

extern void null_write(void)
{
    volatile int *nowhere = NULL;
    *nowhere = 42;
}
