/* From now on the calling thread takes no signal but SIGKILL and SIGSTOP. */
#include <pthread.h>
#include <signal.h>

extern int block_all_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    return pthread_sigmask(SIG_SETMASK, &all, NULL);
}
