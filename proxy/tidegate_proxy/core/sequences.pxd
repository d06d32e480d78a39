from tidegate_proxy.core.client cimport ClientConnection
from tidegate_proxy.core.server cimport ServerConnection


cdef class SequenceUse:
    cdef ClientConnection _client
    cdef long _server
    cdef bint _used

    cpdef used(self, ServerConnection server)
    cpdef transaction_ended(self)
