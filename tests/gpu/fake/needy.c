/* A library that needs a version of the C library which none has yet; the version script is
 * written by drivertree.py. */
extern int from_the_future(void);
int driver_stub(void) { return from_the_future(); }
