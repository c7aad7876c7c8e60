/* SIGABRT: the program gives up without a word. */
#include <stdlib.h>

extern void abort_(void)
{
    abort();
}
