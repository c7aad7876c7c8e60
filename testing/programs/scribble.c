/* Overwrites memory that belongs to somebody else, as a stray pointer does. */
#include <stddef.h>

extern void scribble(void *start, size_t size)
{
    volatile unsigned char *byte = start;
    while (size-- > 0)
        *byte++ = 0xA5;
}
