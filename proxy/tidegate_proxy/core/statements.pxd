cdef class Statement:
    cdef object __weakref__
    cdef public bytes body
    cdef public bytes name
    cdef public bytes context
    cdef public object suspicion


cdef class ParseToken:
    cdef public object statement
    cdef public bint swallow
    cdef public object undo
    cdef public object unnamed_of
    cdef public bytes installed
    cdef public object suspicion
    cdef public bint begins_request


cdef class CloseToken:
    cdef public bint swallow
    cdef public object undo
    cdef public object unnamed_of


cdef class InternalQuery:
    cdef public list rows
    cdef public object error
    cdef public set reported
    cdef public object answered
