# cython: language_level=3, binding=False, auto_pickle=False, boundscheck=False, wraparound=False
"""A socket as a transport: readiness comes from one epoll instance, and recv and send are called right here.

The event loop watches the epoll instance as it would a socket, so that a turn of the loop costs one call from it,
however many sockets are ready. Its own add_reader would cost one call for each, and says nothing of a connection that
was reset.

A transport has the interface of asyncio's transports, so far as the proxy uses it, and the same rules: writes are never
refused, what the kernel does not take at once is queued, and the protocol is told to pause above a mark. There is one
buffer to receive into, for all of them.

Inside TLS, OpenSSL works on memory, through the ssl module's objects, and between one event and the next it holds what
it needs in its own buffers: so there is one pair of BIOs, too, for all connections. Whoever puts bytes into one of them
takes out everything before anybody else is called.
"""

import ssl

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EBADF, EINTR, errno

from tidegate_proxy.core.connection cimport Connection

cdef extern from "<sys/epoll.h>" nogil:
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event *)
    int epoll_wait(int, epoll_event *, int, int)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    unsigned int EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET

cdef extern from "<unistd.h>" nogil:
    int close(int)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int, void *, size_t, int)
    ssize_t send(int, const void *, size_t, int)
    int MSG_NOSIGNAL

# What one recv may bring: as much as a loopback or a fast network has ready for a query's result, and for bulk data
# large enough that the call's own cost is small beside the copying.
cdef enum:
    RECEIVE = 1 << 16
cdef char _buffer[RECEIVE]

# What comes out of them: with each record that they complete at most one that was here in part.
cdef enum:
    RECORD = 1 << 14
    DECRYPTED = RECEIVE + 2 * RECORD
cdef char _decrypted[DECRYPTED]

cdef enum:
    PyBUF_READ = 0x100
    PyBUF_WRITE = 0x200

# The marks of asyncio's own transports.
cdef Py_ssize_t HIGH_WATER = 1 << 16
cdef Py_ssize_t LOW_WATER = 1 << 14


# With the file descriptor of what goes first; a descriptor is never as large.
cdef unsigned long long GOES_FIRST = 1ULL << 32

cdef enum:
    # Looks for what has come, before the event loop's timers and everybody else have their turn.
    ROUNDS = 4
    # Connections that are written to before anything is sent, and bytes that are sent as one.
    WRITTEN = 32
    COALESCED = 1 << 12


cdef class Poller:
    """The epoll instance of one event loop, and the transports that it watches.

    It is told of what becomes ready, and not again of what still is (EPOLLET): so the kernel looks at each socket once.
    Whoever has not taken everything asks to be told again. (A short recv means that there is no more; it does not
    before an urgent byte, which nobody who speaks the protocol sends.)

    What is written meanwhile is sent at the end of a round: whoever is woken by it would else run in between, on the
    same processor, and be woken for each piece.
    """

    def __init__(self, loop):
        self._fd = epoll_create1(EPOLL_CLOEXEC)
        if self._fd < 0:
            raise OSError(errno, _strerror(errno))
        self._loop = loop
        self._transports = []
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        loop.add_reader(self._fd, self._dispatch)

    def __dealloc__(self):
        if self._fd >= 0:
            close(self._fd)

    cdef watch(self, DirectTransport transport, unsigned int events):
        """Tell a transport of these events from now on, and of those that are there already; none: of nothing."""
        cdef epoll_event event
        cdef int operation
        if transport._fd < 0:
            raise OSError(EBADF, _strerror(EBADF))
        event.events = events | EPOLLET
        if events & EPOLLIN:
            event.events |= EPOLLRDHUP
        event.data.u64 = transport._fd | (GOES_FIRST if transport._goes_first else 0)
        if events == 0:
            operation = EPOLL_CTL_DEL
            self._transports[transport._fd] = None
        else:
            operation = EPOLL_CTL_MOD if transport._events else EPOLL_CTL_ADD
            if len(self._transports) <= transport._fd:
                self._transports += [None] * (transport._fd + 64 - len(self._transports))
            self._transports[transport._fd] = transport
        transport._events = events
        if epoll_ctl(self._fd, operation, transport._fd, &event) < 0:
            raise OSError(errno, _strerror(errno))

    def _dispatch(self):
        # A turn of the event loop costs more than to look again whether something has come meanwhile.
        cdef int count
        cdef int left = ROUNDS
        while left:
            count = epoll_wait(self._fd, self._events, EVENTS, 0)
            if count <= 0:
                return
            self._serve(count)
            left -= 1

    cdef _serve(self, int count):
        self._in_round = True
        try:
            # What a server has to say goes first: it may be that it is gone, and then no client shall be given to it.
            self._tell(count, GOES_FIRST)
            self._tell(count, 0)
        finally:
            self._in_round = False
            self._send_written()

    cdef _send_written(self):
        cdef DirectTransport transport
        cdef int number = 0
        try:
            # There may be more of them meanwhile.
            while number < self._count_written:
                transport = <DirectTransport> self._written[number]
                number += 1
                Py_DECREF(transport)
                try:
                    transport._send_later()
                except Exception as error:
                    self._failed(transport, error)
        finally:
            while number < self._count_written:
                Py_DECREF(<DirectTransport> self._written[number])
                number += 1
            self._count_written = 0

    cdef _failed(self, DirectTransport transport, error):
        # As asyncio has it: a protocol's fault ends its connection, and nobody else's.
        self._loop.call_exception_handler(
            {"message": "a protocol failed", "exception": error, "transport": transport}
        )
        # Without asking the protocol anything: others are waiting to be told, and are told only once.
        transport._drop(None)

    cdef _tell(self, int count, unsigned long long goes_first):
        cdef int number = 0
        cdef unsigned int events
        cdef unsigned long long data
        cdef DirectTransport transport
        while number < count:
            try:
                while number < count:
                    data = self._events[number].data.u64
                    events = self._events[number].events
                    number += 1
                    if data & GOES_FIRST != goes_first:
                        continue
                    transport = <DirectTransport> self._transports[<int> (data & ~GOES_FIRST)]
                    # One of those before may have ended it.
                    if transport is None:
                        continue
                    if transport._events & EPOLLIN and events & (EPOLLIN | EPOLLERR | EPOLLHUP):
                        transport._readable(events)
                    if transport._events & EPOLLOUT and events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
                        transport._writable()
                    if self._count_written >= WRITTEN:
                        self._send_written()
            except Exception as error:
                self._failed(transport, error)


cdef Poller _poller = None


cdef Poller _poller_of(loop):
    global _poller
    if _poller is None or _poller._loop is not loop:
        _poller = Poller(loop)
    return _poller


cdef class DirectTransport:
    """A connected, non-blocking stream socket.

    Parameters: `loop`; `sock`, which belongs to the transport from now on; `protocol`, whose methods are called as by
    asyncio; `goes_first`, its events come before those of others that are ready at the same time.
    """

    def __init__(self, loop, sock, protocol, goes_first=False):
        self._loop = loop
        self._poller = _poller_of(loop)
        self._goes_first = goes_first
        self._socket = sock
        self._fd = sock.fileno()
        self._queue = []
        self.set_protocol(protocol)
        protocol.connection_made(self)
        self._poller.watch(self, EPOLLIN)

    def set_protocol(self, protocol):
        """Who is called from now on."""
        self._protocol = protocol
        self._receiver = protocol if isinstance(protocol, Connection) else None

    def get_extra_info(self, name, default=None):
        """As asyncio's: "socket" and "peername"."""
        if name == "socket":
            return self._socket
        if name == "peername" and self._socket is not None:
            try:
                return self._socket.getpeername()
            except OSError:
                return default
        return default

    def is_closing(self):
        """Whether it is closed, or is about to be."""
        return self._closing

    def get_write_buffer_size(self):
        """Bytes that the kernel has not taken yet."""
        return self._queued + (0 if self._later is None else len(self._later))

    # Receiving

    cdef _readable(self, unsigned int events):
        cdef ssize_t size
        size = recv(self._fd, _buffer, RECEIVE, 0)
        if size > 0:
            self._received(PyBytes_FromStringAndSize(_buffer, size))
            self._look_again(size, events)
        elif size == 0:
            self._protocol.eof_received()
            self.close()
        elif errno == EINTR:
            self._poller.watch(self, self._events)
        elif errno != EAGAIN:
            self._break(errno)

    cdef _received(self, bytes data):
        if self._receiver is not None:
            self._receiver.data_received(data)
        else:
            self._protocol.data_received(data)

    cdef _look_again(self, ssize_t size, unsigned int events):
        """There may be more than these bytes: it filled the buffer, or the end is behind it."""
        if (size == RECEIVE or events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) and self._events & EPOLLIN:
            self._poller.watch(self, self._events)

    def pause_reading(self):
        """Receive nothing until further notice."""
        if self._events & EPOLLIN:
            self._poller.watch(self, self._events & ~EPOLLIN)

    def resume_reading(self):
        """Receive again."""
        if not self._closing and not self._events & EPOLLIN:
            self._poller.watch(self, self._events | EPOLLIN)

    # Sending

    cpdef write(self, bytes data):
        """Send, now or as soon as the kernel takes it."""
        self._send(data)

    cdef _send(self, bytes data):
        if self._lost or len(data) == 0:
            return
        if self._later is None:
            if self._queued == 0 and self._poller._in_round and self._poller._count_written < MOST_WRITTEN:
                self._later = data
                Py_INCREF(self)
                self._poller._written[self._poller._count_written] = <PyObject *> self
                self._poller._count_written += 1
                return
        elif len(self._later) + len(data) <= COALESCED:
            self._later += data
            return
        else:
            self._send_later()
        self._send_now(data)

    cdef _send_later(self):
        """Send what was written in this round."""
        cdef bytes data = self._later
        if data is not None:
            self._later = None
            self._send_now(data)

    cdef _send_now(self, bytes data):
        cdef ssize_t sent = 0
        cdef Py_ssize_t size = len(data)
        if self._lost:
            return
        if self._queued == 0:
            sent = send(self._fd, PyBytes_AS_STRING(data), size, MSG_NOSIGNAL)
            if sent == size:
                return
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self._break(errno)
                    return
                sent = 0
            self._sent = sent
        self._queue.append(data)
        self._queued += size - sent
        if not self._events & EPOLLOUT:
            self._poller.watch(self, self._events | EPOLLOUT)
        if self._queued > HIGH_WATER and not self._protocol_paused:
            self._protocol_paused = True
            self._protocol.pause_writing()

    cdef _writable(self):
        cdef ssize_t sent
        cdef bytes data
        cdef Py_ssize_t left
        cdef Py_ssize_t done = 0
        while done < len(self._queue):
            data = self._queue[done]
            left = len(data) - self._sent
            sent = send(self._fd, PyBytes_AS_STRING(data) + self._sent, left, MSG_NOSIGNAL)
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    self._break(errno)
                    return
                break
            self._queued -= sent
            if sent < left:
                self._sent += sent
                break
            self._sent = 0
            done += 1
        del self._queue[:done]
        if not self._queue:
            if self._events & EPOLLOUT:
                self._poller.watch(self, self._events & ~EPOLLOUT)
            if self._closing:
                self._all_sent()
        if self._protocol_paused and self._queued <= LOW_WATER:
            self._protocol_paused = False
            self._protocol.resume_writing()

    # The end

    def close(self):
        """Receive no more, send what is queued, and close."""
        if self._closing:
            return
        self._send_later()
        if self._lost:
            return
        self._closing = True
        self.pause_reading()
        if not self._queue:
            self._all_sent()

    cdef _all_sent(self):
        self._end(None)

    def abort(self):
        """Close without sending what the kernel has not taken."""
        self._send_later()
        self._drop(None)

    cdef _break(self, int number):
        # Whoever is called before `connection_lost` is shall know.
        if not self._lost:
            self._protocol.eof_received()
        self._drop(OSError(number, _strerror(number)))

    cdef _drop(self, error):
        if self._lost:
            return
        self._closing = True
        if self._events:
            self._poller.watch(self, 0)
        self._queue.clear()
        self._queued = 0
        self._later = None
        self._end(error)

    cdef _end(self, error):
        # Once; and never from within a call of the protocol's own.
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._connection_lost, error)

    def _connection_lost(self, error):
        if self._socket is None:
            return  # it was taken back meanwhile
        try:
            self._protocol.connection_lost(error)
        finally:
            self._socket.close()
            self._protocol = self._receiver = None

    def detach(self):
        """Take the socket back, for TLS. Returns: the socket; nothing is received or sent here any more."""
        self._send_later()
        if self._events:
            self._poller.watch(self, 0)
        self._closing = self._lost = True
        sock, self._socket = self._socket, None
        self._protocol = self._receiver = None
        return sock


cdef class TLSTransport(DirectTransport):
    """The same inside TLS.

    Parameters: `context`, `server_side`, `server_hostname` as for `ssl.SSLContext.wrap_bio`; the others as for
    DirectTransport; `received`, what has come of the handshake already. `handshake` is the future to wait for; only
    then is the protocol told that there is a connection, and until then nothing can be written.
    """

    cdef object _tls
    cdef object _read_record
    cdef object _encrypt
    cdef readonly object handshake
    # Bytes that were sent because of what came, and not because the protocol wrote them, while others waited.
    cdef Py_ssize_t _unasked
    cdef bint _secure
    # The client's session ticket, which leaves with what it is sent first.
    cdef bytes _ticket

    def __init__(
        self, loop, sock, protocol, context, server_side, server_hostname=None, goes_first=False, bytes received=b""
    ):
        cdef Poller poller = _poller_of(loop)
        self.handshake = loop.create_future()
        self._tls = context.wrap_bio(
            poller._incoming, poller._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        # SSLObject only passes on to this, each time through a Python function.
        inner = getattr(self._tls, "_sslobj", self._tls)
        self._read_record = inner.read
        self._encrypt = inner.write
        self._loop = loop
        self._poller = poller
        self._goes_first = goes_first
        self._socket = sock
        self._fd = sock.fileno()
        self._queue = []
        self.set_protocol(protocol)
        poller.watch(self, EPOLLIN)
        if received:
            poller._incoming.write(received)
        if received or not server_side:
            self._go_on()

    def get_extra_info(self, name, default=None):
        """As DirectTransport's, and "ssl_object"."""
        return self._tls if name == "ssl_object" else DirectTransport.get_extra_info(self, name, default)

    cdef _readable(self, unsigned int events):
        cdef ssize_t size
        cdef bytes data
        size = recv(self._fd, _buffer, RECEIVE, 0)
        if size > 0:
            self._poller._incoming.write(PyMemoryView_FromMemory(_buffer, size, PyBUF_READ))
            if self._secure:
                data = self._decrypt()
                if data is not None:
                    self._received(data)
            else:
                self._go_on()
            self._look_again(size, events)
        elif size == 0:
            self._ended()
        elif errno == EINTR:
            self._poller.watch(self, self._events)
        elif errno != EAGAIN:
            self._break(errno)

    cdef _go_on(self):
        """Go on with the handshake, and with what came behind its end."""
        cdef bytes data
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except Exception as error:  # OpenSSL's, and ssl.CertificateError's kinds
            self._fail(error)
            return
        self._secure = True
        data = self._decrypt() if self._poller._incoming.pending else None
        if self._poller._outgoing.pending:
            if self._tls.server_side and self._tls.version() == "TLSv1.3":
                # With 1.3 the handshake needs no more of us, and a write of its own costs as much as a query's.
                self._ticket = self._poller._outgoing.read()
            else:
                self._flush()
        if self._lost:
            return
        self._protocol.connection_made(self)
        if not self.handshake.done():
            self.handshake.set_result(None)
        if data is not None and not self._lost:
            self._received(data)

    cdef bytes _decrypt(self):
        """Everything that is in the incoming BIO; None if that is not the end of a record, or is nobody's data."""
        cdef Py_ssize_t size = 0
        cdef Py_ssize_t read
        cdef bint ended = False
        cdef bytes data
        incoming = self._poller._incoming
        try:
            while True:
                read = self._read_record(
                    DECRYPTED, PyMemoryView_FromMemory(_decrypted + size, DECRYPTED - size, PyBUF_WRITE)
                )
                if read == 0:
                    ended = True
                    break
                size += read
                if not incoming.pending:
                    break
        except ssl.SSLWantReadError:
            # By then OpenSSL has taken in all there was.
            assert not incoming.pending
        except Exception as error:
            self._fail(error)
            return None
        data = PyBytes_FromStringAndSize(_decrypted, size) if size else None
        if self._poller._outgoing.pending:
            # Answers to what is TLS's own: a new key, an alert.
            if self._queued:
                self._unasked += self._poller._outgoing.pending
            else:
                self._unasked = 0
            self._flush()
            if self._unasked > HIGH_WATER:
                self._fail(ConnectionResetError("the peer wants answers, but takes none"))
                return None
        if ended:
            # The peer's goodbye; what came behind it counts no more.
            incoming.read()
            if data is not None and not self._lost:
                self._received(data)
            self._ended()
            return None
        return None if self._lost else data

    cdef _ended(self):
        if self._lost:
            return
        if not self._secure:
            self._fail(ConnectionResetError("the connection was closed"))
            return
        self._protocol.eof_received()
        self.close()

    cpdef write(self, bytes data):
        """Encrypt and send, now or as soon as the kernel takes it."""
        if self._lost or not data:
            return
        try:
            self._encrypt(data)
        except Exception as error:
            self._fail(error)
            return
        self._send(self._encrypted())

    cdef _flush(self):
        if self._poller._outgoing.pending:
            self._send(self._encrypted())

    cdef bytes _encrypted(self):
        """What is to be sent, in its order."""
        cdef bytes data = self._poller._outgoing.read()
        if self._ticket is not None:
            data = self._ticket + data
            self._ticket = None
        return data

    cdef _fail(self, error):
        """End the connection for this reason; the peer is told OpenSSL's alert, if there is one."""
        # The next connection must not find what is left of this one.
        self._poller._incoming.read()
        self._send_last()
        if self._secure and not self._lost:
            self._protocol.eof_received()
        self._drop(error)

    cdef _all_sent(self):
        if self._secure and not self._lost:
            try:
                self._tls.unwrap()
            except (ssl.SSLError, OSError):
                # Having said goodbye it would wait for the peer's.
                pass
            self._send_last()
        self._end(None)

    cdef _send_last(self):
        """Send what the outgoing BIO holds if that is possible now."""
        cdef bytes data = self._encrypted()
        self._send_later()
        if data and not self._queue and not self._lost:
            send(self._fd, PyBytes_AS_STRING(data), len(data), MSG_NOSIGNAL)

    def _connection_lost(self, error):
        if self._secure:
            DirectTransport._connection_lost(self, error)
        else:
            # The protocol has not been told of a connection.
            self._socket.close()
            self._protocol = self._receiver = None
        if not self.handshake.done():
            self.handshake.set_exception(error or ConnectionResetError("the connection was closed"))
        # OpenSSL's buffers are the largest part of a connection.
        self._tls = self._read_record = self._encrypt = None

    def detach(self):
        """There is no taking a socket back out of TLS."""
        raise NotImplementedError("a socket inside TLS cannot be had")


def _strerror(number):
    import os

    return os.strerror(number)
