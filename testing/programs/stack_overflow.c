/* SIGSEGV: a recursion without an end; every call uses its frame after the next one, so that none is a tail call. */
extern int stack_overflow(void);

static volatile int deeper = 1;

static int descend(int depth)
{
    volatile char frame[128];
    frame[0] = (char)depth;
    return deeper ? descend(depth + 1) + frame[0] : frame[0];
}

extern int stack_overflow(void)
{
    return descend(0);
}
