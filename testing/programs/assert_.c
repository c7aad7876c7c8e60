/* SIGABRT: a broken assertion, which libc explains on stderr. */
#undef NDEBUG
#include <assert.h>

extern void assert_(void)
{
    volatile int stored = 3;
    volatile int capacity = 2;
    assert(stored <= capacity && "more stored than there is room for");
}
