/* A library with a thread of its own that does the work: a fork has no such thread, and whoever asks waits for ever. */
#include <pthread.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int asked, answered;

static void *work(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&mutex);
    for (;;) {
        while (answered == asked)
            pthread_cond_wait(&changed, &mutex);
        answered = asked;
        pthread_cond_broadcast(&changed);
    }
    return NULL;
}

extern int pool(int begins)
{
    pthread_t thread;
    if (begins)
        return pthread_create(&thread, NULL, work, NULL);
    pthread_mutex_lock(&mutex);
    int mine = ++asked;
    pthread_cond_broadcast(&changed);
    while (answered < mine)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    return 42;
}
