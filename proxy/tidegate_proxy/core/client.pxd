cimport cython

from tidegate_proxy.core.borrowing cimport Borrowing
from tidegate_proxy.core.connection cimport Connection
from tidegate_proxy.core.prepared cimport ClientStatements
from tidegate_proxy.core.scan cimport Scanner
from tidegate_proxy.core.server cimport ServerConnection
from tidegate_proxy.core.session cimport Session
from tidegate_proxy.core.statistics cimport Statistics
from tidegate_proxy.core.transport cimport DirectTransport
from tidegate_proxy.core.watch cimport SessionWatch

cdef int COPY_DATA, COPY_DONE, COPY_FAIL, BIND, DESCRIBE, EXECUTE, FLUSH, FUNCTION_CALL, IDLE, QUERY, SYNC, TERMINATE
cdef int IN_FAILED_TRANSACTION, PARSE, BEGINS, NAMES_STATEMENT, SHORT, QUERY_AFTER_EXTENDED, _HOLDS_ENOUGH, _SERVER_FULL
cdef Py_ssize_t MAX_SHORT_MESSAGE, MAX_SPLICED
cdef bytes FROM_CLIENT
cdef Scanner _scanner


cdef class ClientConnection(Connection):
    cdef public Borrowing owner
    cdef public long pid
    cdef public object key
    cdef public Session session
    cdef public object told
    cdef public DirectTransport transport
    cdef public ServerConnection server
    cdef public SessionWatch watch
    cdef public ClientStatements statements
    cdef public Statistics statistics
    cdef public double silent_since
    cdef public double connected
    cdef public double asked
    cdef public bytes asks
    cdef public double waiting_since
    cdef public bint keeps_server
    cdef public bint single_statements
    cdef public bint unsynced
    cdef public bint behind_others
    cdef public bint write_blocked
    cdef public bint heard
    cdef public bint waiting
    cdef public bint terminated
    cdef public bint closing
    cdef public bint draining
    cdef public bint awaits_answers
    cdef public bint waits_for_answers
    cdef bint _blocked
    cdef bint _bound
    cdef bint _drops
    cdef bint _discarding
    cdef bint _lost_transaction
    cdef int _reading_paused
    cdef object _held
    cdef Py_ssize_t _needed
    cdef Py_ssize_t _skip
    cdef object _doom
    cdef public object deadline
    cdef public bytes request_id

    cpdef data_received(self, bytes data)
    cdef _append(self, bytes data)
    cdef _hold(self, bytes data)
    cdef bytes _whole_held(self)
    @cython.locals(held=bytes)
    cdef bytes _take_held(self)
    @cython.locals(size=Py_ssize_t, pos=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t, limit=Py_ssize_t,
                   length=Py_ssize_t, kind=int, traits=int, out=list, server=ServerConnection,
                   was_mid_message=bint, high=Py_ssize_t, text=bytes, now=double, rewritten=bytes)
    cdef _process(self, bytes data, bytes prefix=*)
    cdef bytes _without_deadline(self, bytes data, Py_ssize_t pos, Py_ssize_t end)
    cpdef forget_deadline(self)
    cdef _send(self, ServerConnection server, list out, bytes data, Py_ssize_t start, Py_ssize_t pos)
    cpdef int simple(self, int kind)
    cdef Py_ssize_t _pass_over(self, Py_ssize_t end, Py_ssize_t size)
    cdef bytes _take(self, ServerConnection server)
    @cython.locals(statistics=Statistics)
    cdef _begin(self, ServerConnection server)
    cdef _proceed(self, bytes prefix=*)
    cpdef unblock(self)
    cpdef server_detached(self)
    cpdef deliver(self, bytes data)
    cdef _pause_reading(self, int reason)
    cdef _resume_reading(self, int reason)
    cpdef bint is_finished(self) except -1
    cpdef bint is_mid_message(self) except -1
