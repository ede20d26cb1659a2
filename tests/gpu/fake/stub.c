/* Any library of the driver: its SONAME is overwritten in the finished file. */
int driver_stub;
