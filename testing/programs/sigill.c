/* SIGILL: an instruction that no processor knows. */
extern void sigill(void)
{
#if defined(__aarch64__)
    __asm__ volatile("udf #0"); /* __builtin_trap() is a breakpoint here: SIGTRAP. */
#else
    __builtin_trap();
#endif
}
