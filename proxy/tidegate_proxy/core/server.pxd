cimport cython

from tidegate_proxy.core.borrowing cimport Borrowing
from tidegate_proxy.core.client cimport ClientConnection
from tidegate_proxy.core.connection cimport Connection
from tidegate_proxy.core.owed cimport Owed
from tidegate_proxy.core.statements cimport CloseToken, InternalQuery, ParseToken
from tidegate_proxy.core.transport cimport DirectTransport

cdef int IDLE, QUERY, SYNC, FLUSH, FUNCTION_CALL, READY_FOR_QUERY, NOTIFICATION_RESPONSE, COMMAND_COMPLETE
cdef int PARSE_COMPLETE, CLOSE_COMPLETE, ERROR_RESPONSE, COPY_IN_RESPONSE, ROW_DESCRIPTION, EMPTY_QUERY_RESPONSE
cdef int PARAMETER_STATUS, COPY_DONE, COPY_DONE_IN_REQUEST, PORTAL_SUSPENDED, DATA_ROW
cdef int FORWARDED, UNKNOWN, QUERY_AFTER_EXTENDED
cdef int _NOTHING, _MARKED, _LAST_READY, _PROBED
cdef Py_ssize_t MAX_WHOLE_MESSAGE
cdef long NOBODYS_VALUES
cdef bytes FROM_SERVER, READ_TAGS


cdef class ServerConnection(Connection):
    cdef public Borrowing owner
    cdef public long pid
    cdef public object key
    cdef public DirectTransport transport
    cdef public ClientConnection client
    cdef public Owed owed
    cdef public double created
    cdef public double idle_since
    cdef public double asked
    cdef public double began
    cdef public double waited
    cdef public Py_ssize_t counted
    cdef public int status
    cdef public bint copy_in
    cdef public bint write_blocked
    cdef public int cancels
    cdef public bint abandoned
    cdef public dict unconfirmed
    cdef public Py_ssize_t request
    cdef public dict prepared
    cdef public list stray_names
    cdef public list deallocating
    cdef public long last_client
    cdef public long sequences_of
    cdef public bint sequences_used
    cdef public bint tainted
    cdef public long generation
    cdef public dict applied
    cdef public Py_ssize_t executes
    cdef public Py_ssize_t flushed
    cdef public bint ends_preparing
    cdef public bint probe_due
    cdef public bint ends_pipeline
    cdef public dict reported
    cdef public object fatal
    cdef public bint closing
    cdef public bint uncertain
    cdef bytes _tail
    cdef Py_ssize_t _skip
    cdef bint _internal
    cdef bint _copy_syncs_dropped
    cdef bint _failed
    cdef int _settling
    cdef bytes _held_ready
    cdef Py_ssize_t _probed
    cdef list _waiters

    @cython.locals(size=Py_ssize_t, pos=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t, length=Py_ssize_t,
                   high=Py_ssize_t, kind=int, action=int, status=int, body=bytes, owed=Owed)
    cpdef data_received(self, bytes data)
    cdef _execute_ended(self)
    @cython.locals(owed=Owed)
    cdef _next_owed(self)
    cdef _deliver(self, bytes data)
    @cython.locals(parsed=ParseToken)
    cdef bint _read(self, int kind, bytes body) except *
    @cython.locals(client=ClientConnection, answered=bint, internal=bint, ends_preparing=bint, failed=bint,
                   skipped=list, passed_over=bint, more=bint, request=int, owed=Owed)
    cdef _ready(self)
    @cython.locals(client=ClientConnection, taken=double)
    cdef _all_answered(self, bint internal)
    @cython.locals(client=ClientConnection)
    cpdef release_if_done(self)
    cpdef bint is_mid_message(self) except -1
    cpdef bint is_reusable(self) except -1
