# cython: language_level=3, binding=False, boundscheck=False, wraparound=False
"""A queue, first in, first out, that the compiled core calls without asking Python: what of a deque it needs."""

cimport cython
from cpython.list cimport PyList_GET_ITEM, PyList_SET_ITEM
from cpython.ref cimport Py_DECREF, Py_INCREF

cdef enum:
    # Places that are kept when nothing is owed any more.
    KEPT = 1024


cdef inline object _exchange(list places, Py_ssize_t number, object token):
    """Put it into a place that is there. Returns: what was in it."""
    # As `places[number] = token`, for which Cython calls a function that looks again whether there is such a place.
    cdef object before = <object> PyList_GET_ITEM(places, number)
    Py_INCREF(token)
    PyList_SET_ITEM(places, number, token)
    Py_DECREF(before)
    return before


@cython.final
cdef class Owed:
    """See look.py. A ring of places, whose number is a power of two."""

    def __init__(self):
        self._places = [None] * 8
        self._first = self._count = 0

    cpdef append(self, object token):
        """Put it at the end."""
        cdef Py_ssize_t size = len(self._places)
        if self._count == size:
            self._places = [*self, *[None] * size]
            self._first = 0
            size *= 2
        _exchange(self._places, (self._first + self._count) & (size - 1), token)
        self._count += 1

    cpdef popleft(self):
        """Take the first one."""
        cdef object token
        if self._count == 0:
            raise IndexError("nothing is owed")
        token = _exchange(self._places, self._first, None)
        self._count -= 1
        self._first = (self._first + 1) & (len(self._places) - 1)
        if self._count == 0 and len(self._places) > KEPT:
            self.clear()
        return token

    def extend(self, tokens):
        """Put all of them at the end."""
        for token in tokens:
            self.append(token)

    def clear(self):
        """Take all of them."""
        self._places = [None] * 8
        self._first = self._count = 0

    def __len__(self):
        return self._count

    def __bool__(self):
        return self._count > 0

    def __getitem__(self, Py_ssize_t number):
        if not 0 <= number < self._count:
            raise IndexError("as much is not owed")
        return self._places[(self._first + number) & (len(self._places) - 1)]

    def __contains__(self, token):
        return any(each == token for each in self)

    def __iter__(self):
        # Most who look for something find it at the beginning of a long queue.
        cdef Py_ssize_t number
        for number in range(self._count):
            yield self[number]
