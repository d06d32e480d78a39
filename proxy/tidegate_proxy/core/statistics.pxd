cimport cython

from tidegate_proxy.core.clock cimport Clock


cdef class Statistics:
    cdef public Clock clock
    cdef public double slow
    cdef public bint keeps_requests
    cdef public long long assignments
    cdef public long long transactions
    cdef public long long requests
    cdef public long long errors
    cdef public long long received
    cdef public long long sent
    cdef public long long client_parses
    cdef public long long server_parses
    cdef public long long binds
    cdef public long long waited
    cdef public double transaction_time
    cdef public double request_time
    cdef public double wait_time
    cdef public list alone
    cdef public list late
    cdef public list served
    cdef public list responded
    cdef public list whole
    cdef public list waits

    @cython.locals(now=double, taken=double)
    cpdef double answered(self, double asked, double began, double waited, Py_ssize_t requests, bint ended) except? -1
    cpdef wait_ended(self, double seconds)


@cython.locals(microseconds=cython.longlong, shift=Py_ssize_t, index=Py_ssize_t)
cdef _add(list counts, double seconds)
