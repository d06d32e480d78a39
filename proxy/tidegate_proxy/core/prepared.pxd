cimport cython

from tidegate_proxy.core.scan cimport Scanner
from tidegate_proxy.core.server cimport ServerConnection
from tidegate_proxy.core.statements cimport CloseToken, ParseToken, Statement
from tidegate_proxy.core.statistics cimport Statistics
from tidegate_proxy.core.watch cimport SessionWatch

cdef int BIND, CLOSE, PARSE, OF_STATEMENT

cdef Scanner _scanner


cdef class ClientStatements:
    cdef SessionWatch _watch
    cdef Statistics _statistics
    cdef dict _named
    cdef dict _fresh
    cdef bytes _unnamed
    cdef object _latest
    cdef Py_ssize_t _latest_request
    cdef bytes _settled
    cdef object _settled_suspicion
    cdef object _unnamed_suspicion
    cdef Statement _stand_in
    cdef ParseToken _again
    cdef public bint unnamed_there

    cpdef query_sent(self)
    cpdef query_answered(self)
    @cython.locals(body=Py_ssize_t, name_at=Py_ssize_t, name_end=Py_ssize_t, name=bytes, statement=Statement,
                   again=bytes, was_there=bint, before=bytes, message=bytes, out=list)
    cpdef bytes rewrite(
        self, ServerConnection server, int kind, bytes data, Py_ssize_t pos, Py_ssize_t limit, Py_ssize_t end
    )
    @cython.locals(name_end=Py_ssize_t, sql_end=Py_ssize_t, name=bytes, body=bytes, text=bytes, sent=bytes,
                   statement=Statement, reused=Statement, token=ParseToken, again=ParseToken, comes_again=bint,
                   keeps_server=bint,
                   before=bytes, ahead=bytes, out=list)
    cdef bytes _parse(self, ServerConnection server, bytes data, Py_ssize_t pos, Py_ssize_t limit, Py_ssize_t end)
    @cython.locals(context=bytes, key=tuple)
    cdef Statement _reused(self, ServerConnection server, bytes body)
    @cython.locals(context=bytes)
    cdef Statement _statement(self, ServerConnection server, bytes body, object suspicion)
    cdef bytes _parse_as(self, ServerConnection server, bytes name, Statement statement, ParseToken token)
    cdef _provide(self, ServerConnection server, Statement statement, list out)
    cdef Statement _meant_now(self, ServerConnection server, bytes name, Statement statement)
    cdef bint _is_there(self, ServerConnection server, Statement statement) except -1
    cdef _used(self, ServerConnection server, Statement statement)
    @cython.locals(token=ParseToken)
    cdef ParseToken _of_unnamed(self, ServerConnection server, bytes body, object suspicion)
    @cython.locals(token=ParseToken)
    cdef bytes _unnamed_again(self, ServerConnection server, bytes body)
    cdef _expect(self, ServerConnection server, object token)
    cpdef parsed(self, ParseToken token)
    cdef bint _is_doubtful(self, ServerConnection server, Statement statement) except -1
    cdef _parse_on(self, ServerConnection server, Statement statement, list out, ParseToken token)
