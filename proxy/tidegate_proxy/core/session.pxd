cdef class Session:
    cdef public dict startup
    cdef public dict parameters
    cdef public set pins
    cdef public bint failed
    cdef public bint always_ask
    cdef set _ask
    cdef set _set
    cdef set _kept
    cdef set _reset
    cdef bint _reset_all
    cdef public bint asked
    cdef int _unanswered
    cdef bint _asked_again
    cdef object _context

    cpdef something_ran(self)
