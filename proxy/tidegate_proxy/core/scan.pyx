# cython: language_level=3, binding=False
"""The first look at a statement's text in one pass, where it is compiled: most texts need no other."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr

# By their first letters: see the tuples in suspect.py, which a test compares with what is found here.
cdef enum:
    LONGEST = 16

ANYWHERE = (
    b"_slot", b"advisory_", b"backup", b"connectby", b"crosstab", b"currval", b"dblink", b"pg_settings",
    b"query_to_xml", b"session_setup", b"set_config", b"setseed", b"temp", b"ts_rewrite", b"ts_stat", b"tval",
    b'u&"', b"xpath_table", b"--", b"/*",
)
AT_BEGINNING = (
    b"alter", b"close", b"create", b"deallocate", b"declare", b"discard", b"do", b"execute", b"explain", b"listen",
    b"load", b"prepare", b"reset", b"set", b"unlisten",
)

cdef struct Word:
    char text[LONGEST]
    Py_ssize_t length

cdef Word _words[64]
# For each byte, where the words that begin with it are among them: first and behind the last.
cdef int _first[256]
cdef int _last[256]
cdef unsigned char _lower[256]
# Whether a word begins with these two letters, at index 128 * first + second: nearly every place of nearly every text
# is done with after one look at one of them.
cdef unsigned char _anywhere[128 * 128]
cdef unsigned char _at_beginning[128 * 128]


cdef _prepare():
    cdef int code, number = 0
    for code in range(256):
        _lower[code] = code + 32 if 65 <= code <= 90 else code
        _first[code] = _last[code] = number
        for word in ANYWHERE:
            if word[0] == code:
                for i, byte in enumerate(word):
                    _words[number].text[i] = byte
                _words[number].length = len(word)
                number += 1
        _last[code] = number
    for word in ANYWHERE:
        _anywhere[128 * word[0] + word[1]] = 1
    for word in AT_BEGINNING:
        _at_beginning[128 * word[0] + word[1]] = 1


_prepare()


cdef bint _has(const unsigned char *text, Py_ssize_t left, const char *word, Py_ssize_t length) noexcept:
    cdef Py_ssize_t i
    if left < length:
        return False
    for i in range(length):
        if _lower[text[i]] != <unsigned char> word[i]:
            return False
    return True


cpdef bint looks_plain(bytes data, Py_ssize_t pos, Py_ssize_t size) except *:
    """Whether nothing in the text `data[pos:size]` can change the session; False says nothing."""
    cdef const unsigned char *start = <const unsigned char *> PyBytes_AS_STRING(data)
    cdef int number, code, following
    size = min(size, PyBytes_GET_SIZE(data))
    while pos < size and (start[pos] == 32 or 9 <= start[pos] <= 13):
        pos += 1
    if size - pos < 2:
        return True
    code = _lower[start[pos]]
    following = _lower[start[pos + 1]]
    if code < 128 and following < 128 and _at_beginning[128 * code + following]:
        for word in AT_BEGINNING:
            if _has(start + pos, size - pos, word, PyBytes_GET_SIZE(word)):
                return False
    while pos < size - 1:
        following = _lower[start[pos + 1]]
        if code == 59 and pos < size - 2:  # a semicolon
            return False
        if code < 128 and following < 128 and _anywhere[128 * code + following]:
            for number in range(_first[code], _last[code]):
                if _has(start + pos, size - pos, _words[number].text, _words[number].length):
                    return False
        code = following
        pos += 1
    return True


cpdef Py_ssize_t find_nul(bytes data, Py_ssize_t pos, Py_ssize_t limit) except -2:
    """Where the next NUL is in `data[pos:limit]`; -1 if there is none."""
    cdef const char *start = PyBytes_AS_STRING(data)
    cdef const char *found
    limit = min(limit, PyBytes_GET_SIZE(data))
    if pos < 0 or pos >= limit:
        return -1
    found = <const char *> memchr(start + pos, 0, limit - pos)
    return found - start if found != NULL else -1
