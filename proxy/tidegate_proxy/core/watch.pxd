from tidegate_proxy.core.client cimport ClientConnection
from tidegate_proxy.core.sequences cimport SequenceUse
from tidegate_proxy.core.session cimport Session


cdef class SessionWatch:
    cdef ClientConnection _client
    cdef bint _defaults_changed
    cdef bint _meaning_changed
    cdef object _scanned
    cdef public dict restoring
    cdef Py_ssize_t _restored_within
    cdef public bint schema_changed
    cdef public bint discards_and_takes
    cdef public SequenceUse sequences
    cdef public Session session

    cpdef next_check(self, bint something_ran)
