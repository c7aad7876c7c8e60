/* SIGABRT on a thread that Python knows nothing of, `delay_us` from now; the caller goes on at once. */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

static void *give_up(void *delay_us)
{
    usleep((useconds_t)(intptr_t)delay_us);
    abort();
}

extern int native_thread_abort(int delay_us)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, give_up, (void *)(intptr_t)delay_us);
    return error != 0 ? error : pthread_detach(thread);
}
