/* Never returns, and this thread takes no signal but SIGKILL and SIGSTOP (call it through `pylib` to hold the GIL too). */
#include <pthread.h>
#include <signal.h>

extern void loop_blocked(void)
{
    sigset_t all;
    volatile unsigned long turns = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    for (;;)
        turns++;
}
