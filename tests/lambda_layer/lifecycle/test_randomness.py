"""After a restore every random generator of the process starts anew, OpenSSL's own included."""

from __future__ import annotations

import ctypes
import random

import psycopg

from tidegate import lifecycle


class Parameter(ctypes.Structure):
    """OpenSSL's OSSL_PARAM."""

    _fields_ = (
        ("key", ctypes.c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", ctypes.c_void_p),
        ("data_size", ctypes.c_size_t),
        ("return_size", ctypes.c_size_t),
    )


UNSIGNED = 2


def reseeds(path: str) -> int:
    """How often the generator of one libcrypto, which all its others draw from, was seeded."""
    library = ctypes.CDLL(path)
    library.RAND_get0_primary.restype = ctypes.c_void_p
    primary = ctypes.c_void_p(library.RAND_get0_primary(None))
    number = ctypes.c_uint(0)
    wanted = (Parameter * 2)(
        Parameter(b"reseed_counter", UNSIGNED, ctypes.addressof(number), ctypes.sizeof(number), 0), Parameter()
    )
    assert library.EVP_RAND_CTX_get_params(primary, wanted) == 1
    return number.value


def test_the_openssl_inside_psycopg_binary_is_among_those_that_are_found() -> None:
    assert psycopg.pq.__impl__ == "binary"
    assert any("psycopg_binary.libs" in path for path in lifecycle._loaded_openssl())


def test_each_openssl_that_is_loaded_is_seeded_anew() -> None:
    lifecycle.refresh_randomness()  # the first use of a generator seeds it by itself
    before = {path: reseeds(path) for path in lifecycle._loaded_openssl()}
    lifecycle.refresh_randomness()
    assert all(reseeds(path) > count for path, count in before.items()), before


def test_a_seed_that_was_set_before_the_snapshot_does_not_count_after_it() -> None:
    drawn = set()
    for _ in range(3):
        random.seed(20)
        lifecycle.refresh_randomness()
        drawn.add(random.random())
    assert len(drawn) == 3
