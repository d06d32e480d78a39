from cpython.ref cimport PyObject

from tidegate_proxy.core.connection cimport Connection

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        unsigned long long u64
    struct epoll_event:
        unsigned int events
        epoll_data_t data

cdef enum:
    EVENTS = 256
    # What one connection brings may be for several.
    MOST_WRITTEN = 64


cdef class Poller:
    cdef object _loop
    # By their file descriptors.
    cdef list _transports
    # Those that were written to in this round; each is referred to.
    cdef PyObject *_written[MOST_WRITTEN]
    cdef int _count_written
    cdef bint _in_round
    # What TLS connections have received, and have to send.
    cdef object _incoming
    cdef object _outgoing
    cdef int _fd
    cdef epoll_event _events[EVENTS]

    cdef watch(self, DirectTransport transport, unsigned int events)
    cdef _serve(self, int count)
    cdef _tell(self, int count, unsigned long long goes_first)
    cdef _send_written(self)
    cdef _failed(self, DirectTransport transport, error)


cdef class DirectTransport:
    cdef object _loop
    cdef Poller _poller
    cdef object _socket
    cdef object _protocol
    # The same, if it is of the core.
    cdef Connection _receiver
    # What is to be sent at the end of the round.
    cdef bytes _later
    cdef list _queue
    cdef Py_ssize_t _queued
    # Of the first queued piece: what has been sent already.
    cdef Py_ssize_t _sent
    cdef int _fd
    # What is watched for.
    cdef unsigned int _events
    cdef bint _goes_first
    cdef bint _closing
    cdef bint _lost
    cdef bint _protocol_paused

    cdef _readable(self, unsigned int events)
    cdef _received(self, bytes data)
    cdef _look_again(self, ssize_t size, unsigned int events)
    cpdef write(self, bytes data)
    cdef _send(self, bytes data)
    cdef _send_later(self)
    cdef _send_now(self, bytes data)
    cdef _writable(self)
    cdef _all_sent(self)
    cdef _break(self, int number)
    cdef _drop(self, error)
    cdef _end(self, error)
