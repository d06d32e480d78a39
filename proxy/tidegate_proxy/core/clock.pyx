# cython: language_level=3, binding=False
"""The monotonic clock without a Python object in between: it is read for every request."""

cimport cython
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec


@cython.final
cdef class Clock:
    """Event-loop time: the seconds of CLOCK_MONOTONIC, as time.monotonic() has them."""

    cpdef double read(self):
        """Now."""
        cdef timespec now
        clock_gettime(CLOCK_MONOTONIC, &now)
        return <double> now.tv_sec + <double> now.tv_nsec * 1e-9
