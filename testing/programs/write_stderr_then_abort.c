/* SIGABRT after last words on stderr, as a Rust panic, a sanitizer or a C++ runtime leaves them. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern void write_stderr_then_abort(const char *words)
{
    size_t left = strlen(words);
    while (left > 0) {
        ssize_t written = write(STDERR_FILENO, words, left);
        if (written <= 0)
            break;
        words += written;
        left -= (size_t)written;
    }
    abort();
}
