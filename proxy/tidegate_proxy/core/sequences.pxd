from tidegate_proxy.core.client cimport ClientConnection
from tidegate_proxy.core.server cimport ServerConnection

cdef long NOBODYS_VALUES


cdef class SequenceUse:
    cdef ClientConnection _client
    cdef long _server
    cdef bint _used
    cdef set _discarded_on

    cpdef used(self, ServerConnection server)
    cpdef transaction_ended(self)
