/* SIGBUS: a mapped file loses the page that is touched. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void sigbus(void)
{
    FILE *file = tmpfile(); /* Has no name: nothing stays behind. */
    if (file == NULL || ftruncate(fileno(file), 4096) != 0) {
        perror("sigbus");
        exit(99);
    }
    volatile char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    if (page == MAP_FAILED || ftruncate(fileno(file), 0) != 0) {
        perror("sigbus");
        exit(99);
    }
    page[0] = 1;
}
