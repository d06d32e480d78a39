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

# Of words anywhere and of those at the beginning. For each byte, where those that begin with it are: first and behind
# the last; and whether a word begins with two letters, at index 128 * first + second, so that nearly every place of
# nearly every text is done with after one look. (Bytes beyond ASCII share places with others, at the cost of a look.)
cdef struct Words:
    Word words[64]
    int first[256]
    int last[256]
    unsigned char begun[128 * 256 + 256]

cdef Words _anywhere
cdef Words _at_beginning
cdef unsigned char _lower[256]


cdef _prepare(Words *words, tuple texts):
    cdef int code, number = 0
    for code in range(256):
        words.first[code] = words.last[code] = number
        for text in texts:
            if text[0] == code:
                for i, byte in enumerate(text):
                    words.words[number].text[i] = byte
                words.words[number].length = len(text)
                words.begun[128 * text[0] + text[1]] = 1
                number += 1
        words.last[code] = number


for _code in range(256):
    _lower[_code] = _code + 32 if 65 <= _code <= 90 else _code
_prepare(&_anywhere, ANYWHERE)
_prepare(&_at_beginning, AT_BEGINNING)


cdef bint _has(const unsigned char *text, Py_ssize_t left, const char *word, Py_ssize_t length) noexcept:
    cdef Py_ssize_t i
    if left < length:
        return False
    for i in range(length):
        if _lower[text[i]] != <unsigned char> word[i]:
            return False
    return True


cdef bint _begins(Words *words, const unsigned char *text, Py_ssize_t left) noexcept:
    """Whether one of the words is here."""
    cdef int number, code = _lower[text[0]]
    for number in range(words.first[code], words.last[code]):
        if _has(text, left, words.words[number].text, words.words[number].length):
            return True
    return False


cpdef bint looks_plain(bytes data, Py_ssize_t pos, Py_ssize_t size) except *:
    """Whether nothing in the text `data[pos:size]` can change the session; False says nothing."""
    cdef const unsigned char *start = <const unsigned char *> PyBytes_AS_STRING(data)
    cdef unsigned int code, pair
    size = min(size, PyBytes_GET_SIZE(data))
    while pos < size and (start[pos] == 32 or 9 <= start[pos] <= 13):
        pos += 1
    # Every word has two letters at least, and so has what may come behind a semicolon.
    if size - pos < 2:
        return True
    pair = 128 * _lower[start[pos]] + _lower[start[pos + 1]]
    if _at_beginning.begun[pair] and _begins(&_at_beginning, start + pos, size - pos):
        return False
    code = _lower[start[pos]]
    while pos < size - 1:
        if code == 59 and pos < size - 2:
            return False
        pair = 128 * code
        code = _lower[start[pos + 1]]
        pair += code
        if _anywhere.begun[pair] and _begins(&_anywhere, start + pos, size - pos):
            return False
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
