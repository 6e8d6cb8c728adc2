# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: extra_compile_args=-O3
"""The floor under the codec: one memcpy of a header in front of each frame, or of each frame of a list,
and nothing else; and our checksum alone.

Place in the house: built by bench_codec.py alone, never part of the package. Memory comes by its address,
so that a call costs as little as one of the codec's.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from "vx_csum.h" nogil:
    uint64_t vx_csum_add(const uint8_t *p, size_t length, uint64_t sum)
    uint16_t vx_csum_fold(uint64_t sum)


def copy_headers(size_t data, size_t offset, size_t n, bytes header):
    """Copy the header in front of each of n offsets by calling memcpy, which learns its length then."""
    cdef size_t i, length = len(header)
    cdef uint8_t *memory = <uint8_t *>data
    cdef const uint32_t *offsets = <const uint32_t *>offset
    cdef const char *source = PyBytes_AS_STRING(header)
    with nogil:
        for i in range(n):
            memcpy(memory + offsets[i] - length, source, length)


def copy_headers_of_50(size_t data, size_t offset, size_t n, bytes header):
    """The same by three moves and a half: the length is known when this is compiled."""
    cdef size_t i
    cdef uint8_t *memory = <uint8_t *>data
    cdef const uint32_t *offsets = <const uint32_t *>offset
    cdef const char *source = PyBytes_AS_STRING(header)
    with nogil:
        for i in range(n):
            memcpy(memory + offsets[i] - 50, source, 50)


def copy_list(list frames):
    """A new list with a copy of each bytes object."""
    cdef bytes frame
    return [PyBytes_FromStringAndSize(PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame)) for frame in frames]


def checksums(size_t data, size_t offset, size_t n, size_t length, size_t sums):
    """The checksum of `length` bytes at each of n offsets, in memory order, into n uint16 at `sums`."""
    cdef size_t i
    cdef const uint8_t *memory = <const uint8_t *>data
    cdef const uint32_t *offsets = <const uint32_t *>offset
    cdef uint16_t *out = <uint16_t *>sums
    with nogil:
        for i in range(n):
            out[i] = vx_csum_fold(vx_csum_add(memory + offsets[i], length, 0))
