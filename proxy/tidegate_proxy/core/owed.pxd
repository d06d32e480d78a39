cimport cython


@cython.final
cdef class Owed:
    cdef list _places
    cdef Py_ssize_t _first
    cdef Py_ssize_t _count

    cpdef append(self, object token)
    cpdef popleft(self)
