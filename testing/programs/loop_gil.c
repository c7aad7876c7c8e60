/* Never returns; called through `pylib` it holds the GIL, through `lib` it does not. */
extern void loop_gil(void)
{
    volatile unsigned long turns = 0;
    for (;;)
        turns++;
}
