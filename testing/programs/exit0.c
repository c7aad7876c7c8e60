/* Exit code 0, at once: looks like success from outside. */
#include <unistd.h>

extern void exit0(void)
{
    _exit(0);
}
