# cython: language_level=3, binding=False
"""Looks at bytes of messages in place, where it is compiled: without a Python object for what is only looked at."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy

cdef extern from * nogil:
    # The number of the lowest bit that is set, as GCC and Clang know it.
    int __builtin_ctz(unsigned int)

# By their first letters: see the tuples in suspect.py, which a test compares with what is found here.
cdef enum:
    LONGEST = 16
    WORDS = 32
    # Stands for a semicolon with a statement behind it.
    SEMICOLON = WORDS - 1

ANYWHERE = (
    b"_slot", b"advisory_", b"backup", b"connectby", b"crosstab", b"currval", b"dblink", b"pg_settings",
    b"query_to_xml", b"session_setup", b"set_config", b"setseed", b"temp", b"ts_rewrite", b"ts_stat", b"tval",
    b'u&"', b"xpath_table", b"--", b"/*",
)
AT_BEGINNING = (
    b"alter", b"close", b"create", b"deallocate", b"declare", b"discard", b"do", b"execute", b"explain", b"listen",
    b"load", b"prepare", b"reset", b"set", b"unlisten",
)

# The commonest letters of statements; what is not here is rare.
_COMMON = b"etaorsnicldum_pfhgb"

cdef struct Word:
    char text[LONGEST]
    Py_ssize_t length
    # Where in the word its rarest pair of letters is, which is looked for.
    Py_ssize_t pair

cdef Word _anywhere[WORDS]
cdef Word _at_beginning[WORDS]
cdef int _count_anywhere = len(ANYWHERE)
cdef int _count_at_beginning = len(AT_BEGINNING)
cdef unsigned char _lower[256]
# For each byte a bit for every word whose pair begins with it, or ends with it, in either case.
cdef unsigned int _begins_pair[256]
cdef unsigned int _ends_pair[256]
# And one for every word that a text may begin with.
cdef unsigned int _begins_text[256]


def _commonness(letter):
    place = _COMMON.find(letter)
    return len(_COMMON) - place if place >= 0 else 0


cdef _keep(Word *word, bytes text):
    pairs = range(len(text) - 1)
    word.pair = min(pairs, key=lambda at: (_commonness(text[at]) + 1) * (_commonness(text[at + 1]) + 1))
    word.length = len(text)
    for at, byte in enumerate(text):
        word.text[at] = byte


cdef _prepare():
    cdef int code, number
    for code in range(256):
        _lower[code] = code + 32 if 65 <= code <= 90 else code
        _begins_pair[code] = 0
        _ends_pair[code] = 1U << SEMICOLON
    _begins_pair[c";"] = 1U << SEMICOLON
    for number in range(_count_anywhere):
        _keep(&_anywhere[number], ANYWHERE[number])
    for number in range(_count_at_beginning):
        _keep(&_at_beginning[number], AT_BEGINNING[number])
    for code in range(256):
        for number in range(_count_anywhere):
            if _anywhere[number].text[_anywhere[number].pair] == <char> _lower[code]:
                _begins_pair[code] |= 1U << number
            if _anywhere[number].text[_anywhere[number].pair + 1] == <char> _lower[code]:
                _ends_pair[code] |= 1U << number
        _begins_text[code] = 0
        for number in range(_count_at_beginning):
            if _at_beginning[number].text[0] == <char> _lower[code]:
                _begins_text[code] |= 1U << number


_prepare()


cdef bint _is(Word *word, const unsigned char *text, Py_ssize_t left) noexcept:
    cdef Py_ssize_t i
    if left < word.length:
        return False
    for i in range(word.length):
        if _lower[text[i]] != <unsigned char> word.text[i]:
            return False
    return True


cdef bint _found(
    unsigned int bits, const unsigned char *begin, const unsigned char *pair, const unsigned char *end
) noexcept:
    """Whether a word is there whose pair is at `pair`, or another statement's beginning, in `begin` up to `end`."""
    cdef int number
    cdef const unsigned char *word
    if bits >> SEMICOLON and end - pair > 2:
        return True
    while bits != 0:
        number = __builtin_ctz(bits)
        bits &= bits - 1
        if number < _count_anywhere:
            word = pair - _anywhere[number].pair
            if word >= begin and _is(&_anywhere[number], word, end - word):
                return True
    return False


@cython.final
cdef class Scanner:
    """See look.py."""

    cpdef bint looks_plain(self, bytes data, Py_ssize_t pos, Py_ssize_t limit) except -1:
        """Whether nothing in the text `data[pos:limit]` can change the session; False says nothing."""
        cdef const unsigned char *at
        cdef const unsigned char *begin
        cdef const unsigned char *end
        cdef unsigned int bits
        if limit > PyBytes_GET_SIZE(data):
            limit = PyBytes_GET_SIZE(data)
        at = <const unsigned char *> PyBytes_AS_STRING(data) + pos
        end = <const unsigned char *> PyBytes_AS_STRING(data) + limit
        while at < end and (at[0] == 32 or 9 <= at[0] <= 13):
            at += 1
        # Every word has two letters at least, and so has what may come behind a semicolon.
        if end - at < 2:
            return True
        begin = at
        bits = _begins_text[at[0]]
        while bits != 0:
            if _is(&_at_beginning[__builtin_ctz(bits)], at, end - at):
                return False
            bits &= bits - 1
        bits = _begins_pair[at[0]]
        at += 1
        while at < end:
            bits &= _ends_pair[at[0]]
            if bits != 0 and _found(bits, begin, at - 1, end):
                return False
            bits = _begins_pair[at[0]]
            at += 1
        return True

    cpdef Py_ssize_t find_nul(self, bytes data, Py_ssize_t pos, Py_ssize_t limit) except -2:
        """Where the next NUL is in `data[pos:limit]`; -1 if there is none."""
        cdef const char *start = PyBytes_AS_STRING(data)
        cdef const char *found
        if limit > PyBytes_GET_SIZE(data):
            limit = PyBytes_GET_SIZE(data)
        if pos < 0 or pos >= limit:
            return -1
        found = <const char *> memchr(start + pos, 0, limit - pos)
        return found - start if found != NULL else -1

    cpdef bytes cut(self, bytes data, Py_ssize_t pos, Py_ssize_t limit):
        """`data[pos:limit]`, of which neither is negative."""
        if limit > PyBytes_GET_SIZE(data):
            limit = PyBytes_GET_SIZE(data)
        if pos >= limit:
            return b""
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + pos, limit - pos)

    cpdef bint is_at(self, bytes data, Py_ssize_t pos, Py_ssize_t limit, bytes text) except -1:
        """Whether `data[pos:limit]`, of which neither is negative, is this text."""
        cdef Py_ssize_t length = PyBytes_GET_SIZE(text)
        if limit - pos != length or limit > PyBytes_GET_SIZE(data):
            return False
        return memcmp(PyBytes_AS_STRING(data) + pos, PyBytes_AS_STRING(text), length) == 0

    cpdef bytes spliced(self, bytes data, Py_ssize_t pos, Py_ssize_t limit, bytes piece):
        """The data with `piece` for `data[pos:limit]`."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t length = len(piece)
        cdef bytes whole
        cdef char *to
        if not 0 <= pos <= limit <= size:
            raise ValueError("there is no such piece")
        whole = PyBytes_FromStringAndSize(NULL, pos + length + size - limit)
        to = PyBytes_AS_STRING(whole)
        memcpy(to, PyBytes_AS_STRING(data), pos)
        memcpy(to + pos, PyBytes_AS_STRING(piece), length)
        memcpy(to + pos + length, PyBytes_AS_STRING(data) + limit, size - limit)
        return whole

    cpdef bytes renamed(
        self,
        bytes data,
        Py_ssize_t pos,
        Py_ssize_t limit,
        Py_ssize_t end,
        Py_ssize_t name_at,
        Py_ssize_t name_end,
        bytes name,
    ):
        """The message `data[pos:end]`, of which `data[pos:limit]` is there, with `name` for `data[name_at:name_end]`.
        """
        cdef Py_ssize_t length = len(name)
        cdef Py_ssize_t grown = length - (name_end - name_at)
        cdef unsigned int said = <unsigned int> (end - pos - 1 + grown)
        cdef const char *start = PyBytes_AS_STRING(data)
        cdef bytes message
        cdef char *to
        if not 0 <= pos < pos + 5 <= name_at <= name_end <= limit <= PyBytes_GET_SIZE(data):
            raise ValueError("no name of a statement in this message")
        message = PyBytes_FromStringAndSize(NULL, limit - pos + grown)
        to = PyBytes_AS_STRING(message)
        to[0] = start[pos]
        to[1] = <char> (said >> 24)
        to[2] = <char> (said >> 16)
        to[3] = <char> (said >> 8)
        to[4] = <char> said
        to += 5
        memcpy(to, start + pos + 5, name_at - pos - 5)
        to += name_at - pos - 5
        memcpy(to, PyBytes_AS_STRING(name), length)
        memcpy(to + length, start + name_end, limit - name_end)
        return message
