/* SIGSEGV on a thread that Python knows nothing of, `delay_us` from now; the caller goes on at once. */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

static void *write_nowhere(void *delay_us)
{
    volatile int *nowhere = NULL;
    usleep((useconds_t)(intptr_t)delay_us);
    *nowhere = 42;
    return NULL;
}

extern int native_thread_crash(int delay_us)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, write_nowhere, (void *)(intptr_t)delay_us);
    return error != 0 ? error : pthread_detach(thread);
}
