/* A library that cannot live with a fork, and says so: SIGABRT where another process uses it than the one that began. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static pid_t begun_by;

extern int no_fork(int begins)
{
    if (begins)
        begun_by = getpid();
    if (getpid() != begun_by) {
        fprintf(stderr, "no_fork: used after fork() without exec()\n");
        abort();
    }
    return 42;
}
