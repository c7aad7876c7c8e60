/* Exit code 3, by exit(): C's atexit functions run, Python's do not. */
#include <stdlib.h>

extern void exit3(void)
{
    exit(3);
}
