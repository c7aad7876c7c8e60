/* Stops the whole process, as a debugger or Ctrl-Z would; returns when SIGCONT comes. */
#include <signal.h>

extern int stop_self(void)
{
    return raise(SIGSTOP);
}
