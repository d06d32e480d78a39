cimport cython

from tidegate_proxy.core.client cimport ClientConnection
from tidegate_proxy.core.server cimport ServerConnection


cdef class Borrowing:
    cdef public list idle
    cdef public dict _waiting
    cdef public set _servers
    cdef public Py_ssize_t _opening
    cdef public Py_ssize_t pool_size
    cdef public Py_ssize_t max_waiting
    cdef public double borrow_timeout
    cdef public bint held_up
    cdef public double now
    cdef public long generation
    cdef public Py_ssize_t max_prepared
    cdef public Py_ssize_t reuse_after
    cdef public dict seen
    cdef public bytes plan_generation
    cdef public bint pins_sequences
    cdef public bint always_prefixed

    cpdef ServerConnection take(self)
    @cython.locals(server=ServerConnection)
    cpdef ServerConnection take_idle(self)
    @cython.locals(count=Py_ssize_t)
    cpdef bint joins_queue(self, ClientConnection client, double now) except *
    cpdef bint put_back(self, ServerConnection server) except *
    cpdef bint is_ready_for(self, ServerConnection server, ClientConnection client) except *
