cdef class Clock:
    cpdef double read(self)
