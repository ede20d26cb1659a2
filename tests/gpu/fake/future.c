/* A C library of the future, only to link needy.c with. */
int from_the_future(void) { return 0; }
