/* SIGFPE: an integer division by zero; where the processor does not trap it (ARM), the signal itself. */
#include <signal.h>

extern int sigfpe(void)
{
    volatile int divisor = 0;
#if defined(__x86_64__) || defined(__i386__)
    return 42 / divisor;
#else
    raise(SIGFPE);
    return divisor;
#endif
}
