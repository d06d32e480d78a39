"""What is counted for each transaction: whole numbers, sums of seconds, and how often each duration occurred.

A request is what one ReadyForQuery answers: a simple query, however many statements it has, or everything up to a Sync;
requests that are sent without waiting for answers are timed together. The clock is read when a server connection is
given to a client, when a held one gets its next request, and when all is answered: twice for a transaction of one
request.

Durations are counted in buckets of whole microseconds, each one sixteenth of its value wide or less, so that every
percentile is known to within a few per cent, whatever the load, without keeping the durations themselves.
"""

from __future__ import annotations

from tidegate_proxy.core.look import Clock as _Clock

PER_OCTAVE = 16
"""Buckets from one power of two to the next."""


def _add(counts: list[int], seconds: float) -> None:
    microseconds = int(seconds * 1e6)
    shift = 0
    # The same in larger steps, for there are many where clients wait.
    while microseconds >= 1024:
        microseconds >>= 5
        shift += 5
    while microseconds >= 32:
        microseconds >>= 1
        shift += 1
    index = shift * 16 + microseconds
    while len(counts) <= index:
        counts.append(0)
    counts[index] += 1


def bounds(index: int) -> tuple[int, int]:
    """The microseconds from which on, and up to which, durations are in the bucket of this number."""
    shift = max(0, index // PER_OCTAVE - 1)
    low = (index - shift * PER_OCTAVE) << shift
    return low, low + (1 << shift)


class Statistics:
    """Counters of some clients of one pool, since the proxy began. All times are in seconds.

    Lists have the number of durations in each bucket, see `bounds`. A transaction of one request takes as long as that:
    `alone` are those whose client did not wait, for which both are also what the client saw, and `late` those whose
    client did. Of all others there are `served`, from a request to its answer, and `whole`, of transactions; of all but
    `alone` there are `responded`, from a request to its answer with the wait before it. `waits` for a server connection
    are of those that waited at all.
    """

    def __init__(self) -> None:
        self.clock = _Clock()
        # Seconds from which on a request is slow; whether any can be, so that what it asks is kept until its answer.
        self.slow = 0.0
        self.keeps_requests = False
        # How often a client got a server connection, and how often it waited for it.
        self.assignments = 0
        self.waited = 0
        self.transactions = 0
        self.requests = 0
        # Statements that the server answered with an error.
        self.errors = 0
        # Bytes, from clients and to them.
        self.received = 0
        self.sent = 0
        # Named statements: as clients prepared them, as servers were given them, and what was bound of them.
        self.client_parses = 0
        self.server_parses = 0
        self.binds = 0
        self.transaction_time = 0.0
        self.request_time = 0.0
        self.wait_time = 0.0
        self.alone: list[int] = []
        self.late: list[int] = []
        self.served: list[int] = []
        self.responded: list[int] = []
        self.whole: list[int] = []
        self.waits: list[int] = []

    def answered(self, asked: float, began: float, waited: float, requests: int, ended: bool) -> float:
        """All that a client has asked is answered.

        Parameters: when it was `asked`; when the transaction `began`; how long the client `waited` before; how many
        `requests` it was; whether the transaction has `ended`. Returns: the seconds since it was asked.
        """
        now = self.clock.read()
        taken = now - asked
        self.requests += requests
        self.request_time += taken
        if ended:
            self.transactions += 1
            self.transaction_time += now - began
            if asked == began:
                if waited == 0:
                    _add(self.alone, taken)
                else:
                    _add(self.late, taken)
                    _add(self.responded, taken + waited)
                return taken
            _add(self.whole, now - began)
        _add(self.served, taken)
        _add(self.responded, taken + waited)
        return taken

    def wait_ended(self, seconds: float) -> None:
        """A client has waited so long for the server connection that it got now."""
        self.waited += 1
        self.wait_time += seconds
        _add(self.waits, seconds)
