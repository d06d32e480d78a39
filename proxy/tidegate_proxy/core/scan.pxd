cimport cython


@cython.final
cdef class Scanner:
    cpdef bint looks_plain(self, bytes data, Py_ssize_t pos, Py_ssize_t limit) except -1
    cpdef Py_ssize_t find_nul(self, bytes data, Py_ssize_t pos, Py_ssize_t limit) except -2
    cpdef bytes cut(self, bytes data, Py_ssize_t pos, Py_ssize_t limit)
    cpdef bint is_at(self, bytes data, Py_ssize_t pos, Py_ssize_t limit, bytes text) except -1
    cpdef bytes spliced(self, bytes data, Py_ssize_t pos, Py_ssize_t limit, bytes piece)
    cpdef bytes renamed(
        self,
        bytes data,
        Py_ssize_t pos,
        Py_ssize_t limit,
        Py_ssize_t end,
        Py_ssize_t name_at,
        Py_ssize_t name_end,
        bytes name,
    )
