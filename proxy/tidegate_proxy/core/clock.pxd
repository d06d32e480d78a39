cimport cython


@cython.final
cdef class Clock:
    cpdef double read(self)
