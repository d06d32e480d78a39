cdef class Connection:
    cpdef data_received(self, bytes data)
