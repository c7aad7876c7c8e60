/* A library that cannot live with a fork, and says so: SIGABRT where another process uses it than the one that began. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static pid_t begun_by;

extern void no_fork_begin(void)
{
    begun_by = getpid();
}

extern int no_fork_use(void)
{
    if (getpid() != begun_by) {
        fprintf(stderr, "no_fork: used after fork() without exec()\n");
        abort();
    }
    return 42;
}
