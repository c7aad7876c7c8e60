/* SIGABRT: glibc finds a block freed twice and says so on stderr. */
#include <stdlib.h>

extern void double_free(void)
{
    void *volatile block = malloc(64);
    free(block);
    free(block);
}
