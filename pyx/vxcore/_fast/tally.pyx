"""Counting what a batch holds by key: VTEP pairs, inner flows, anything of a fixed number of bytes.

Place in the house: above batch and flow. A Tally has as many rows as it was made with, and one more
for all that came when these were taken: memory does not grow with what is counted, whoever sent it.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset

import os

import numpy as np

from vxcore._fast.batch cimport PacketBatch, Packets, in_slot
from vxcore._fast.c_bytes cimport VX_K0, VX_K1, vx_load64_raw, vx_mix, vx_store16
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport *
from vxcore._fast.verdict cimport *

cdef enum:
    MAX_PROBES = 128         # then it counts as "other": nobody makes us search long
    ADDRESS_LEN = 16         # IPv4 as ::ffff:a.b.c.d
    PAIR_LEN = 32
    FLOW_LEN = 48
    # In a flow's key
    VNI_AT = 0
    VERSION_AT = 4
    PROTO_AT = 5
    PORTS_AT = 8
    SOURCE_AT = 16
    DESTINATION_AT = 32


@cython.auto_pickle(False)
cdef class Tally:
    """Packets and bytes by key.

    ``Tally(key_len, limit)`` counts up to `limit` different keys of `key_len` bytes, a multiple of 8;
    what has another key then goes to ``other_packets`` and ``other_bytes``.
    """

    cdef readonly uint64_t other_packets, other_bytes
    cdef readonly uint32_t count
    cdef object _keys, _packets, _bytes
    cdef uint8_t *keys
    cdef uint64_t *packets
    cdef uint64_t *bytes_
    cdef uint64_t seed
    cdef uint32_t key_len, limit, mask

    def __init__(self, key_len: int, limit: int):
        if key_len < 8 or key_len % 8 or not 1 <= limit <= 1 << 24:
            raise ValueError(f"key_len {key_len} must be a multiple of 8, limit {limit} from 1 to 2^24")
        n_rows = 1 << (2 * limit - 1).bit_length()
        self.key_len, self.limit, self.mask = key_len, limit, n_rows - 1
        self.seed = int.from_bytes(os.urandom(8), "little")
        self._keys = np.zeros((n_rows, key_len), np.uint8)
        self._packets = np.zeros(n_rows, np.uint64)
        self._bytes = np.zeros(n_rows, np.uint64)
        self.keys = <uint8_t *><uintptr_t>self._keys.ctypes.data
        self.packets = <uint64_t *><uintptr_t>self._packets.ctypes.data
        self.bytes_ = <uint64_t *><uintptr_t>self._bytes.ctypes.data

    def __len__(self) -> int:
        return self.count

    def add(self, keys, PacketBatch batch not None) -> None:
        """Count the delivered packets of a batch and their lengths; `keys` is uint8 (n, key_len)."""
        cdef const uint8_t[:, ::1] view = keys
        cdef uint32_t i
        if view.shape[0] != batch.p.n or view.shape[1] != self.key_len:
            raise ValueError(f"keys have shape {keys.shape}; ({batch.p.n}, {self.key_len}) is needed")
        if batch.p.n == 0:
            return
        with nogil:
            for i in range(batch.p.n):
                if batch.p.verdict[i] == DELIVERED:
                    self._count(&view[i, 0], batch.p.length[i])

    cdef void _count(self, const uint8_t *key, uint64_t n_bytes) noexcept nogil:
        cdef uint64_t hashed = self.seed
        cdef uint32_t row, at
        cdef int _probe
        for at in range(0, self.key_len, 8):
            hashed = vx_mix(hashed ^ vx_load64_raw(key + at) ^ VX_K0, VX_K1)
        row = <uint32_t>(hashed >> 32) & self.mask
        for _probe in range(MAX_PROBES):
            if self._is_row(row, key):
                self.packets[row] += 1
                self.bytes_[row] += n_bytes
                return
            row = (row + 1) & self.mask
        self.other_packets += 1
        self.other_bytes += n_bytes

    cdef inline bint _is_row(self, uint32_t row, const uint8_t *key) noexcept nogil:
        """Whether the row is the key's; an empty one becomes it unless there are enough."""
        cdef uint8_t *at = self.keys + <size_t>row * self.key_len
        if self.packets[row]:
            return memcmp(at, key, self.key_len) == 0
        if self.count == self.limit:
            return False
        memcpy(at, key, self.key_len)
        self.count += 1
        return True

    def rows(self, limit: int | None = None) -> list[tuple[bytes, int, int]]:
        """(key, packets, bytes) of those with the most bytes, at most `limit`; then the key decides."""
        used = np.flatnonzero(self._packets)
        if limit is not None and 0 < limit < len(used):
            sizes = self._bytes[used]
            used = used[sizes >= np.partition(sizes, len(used) - limit)[len(used) - limit]]
        rows = [(bytes(self._keys[row]), int(self._packets[row]), int(self._bytes[row])) for row in used]
        return sorted(rows, key=lambda row: (-row[2], row[0]))[:limit]


def pair_keys(PacketBatch batch not None, at):
    """For each delivered packet the outer source and destination address: uint8 (n, 32).

    `at`, a uint32 array of shape (n,), says where in the batch's memory the outer IP header stands.
    """
    cdef const uint32_t[::1] starts = at
    cdef uint8_t[:, ::1] view
    cdef const Packets *p = &batch.p
    cdef uint32_t i
    if starts.shape[0] != p.n:
        raise ValueError(f"at has {starts.shape[0]} elements, the batch {p.n} packets")
    keys = np.zeros((p.n, PAIR_LEN), np.uint8)
    view = keys
    with nogil:
        for i in range(p.n):
            if p.verdict[i] == DELIVERED and in_slot(p, i, starts[i], VX_IPV6_LEN):
                put_addresses(&view[i, 0], &view[i, ADDRESS_LEN], p.mem + starts[i], p.mem[starts[i]] >> 4)
    return keys


def flow_keys(PacketBatch batch not None):
    """For each delivered packet, whose frame is then the inner one, its flow: uint8 (n, 48).

    VNI in 4 bytes, IP version, protocol, 2 bytes unused, source port, destination port (network
    order), 4 unused, source and destination address of 16 bytes each. For what is not IP the version
    is 0, the EtherType in the source port's place, and MAC addresses start the address fields.
    """
    cdef uint8_t[:, ::1] view
    cdef const Packets *p = &batch.p
    cdef uint32_t i, offset, length
    keys = np.zeros((p.n, FLOW_LEN), np.uint8)
    view = keys
    with nogil:
        for i in range(p.n):
            offset, length = p.offset[i], p.length[i]
            if p.verdict[i] == DELIVERED and in_slot(p, i, offset, length):
                memcpy(&view[i, VNI_AT], &p.vni[i], 4)
                put_flow(&view[i, 0], p.mem + offset, length, p.protocol[i])
    return keys


cdef void put_flow(uint8_t *key, const uint8_t *frame, uint32_t length, uint8_t bare) noexcept nogil:
    """`bare` is the IP version of a packet without Ethernet, whose ports are not looked for."""
    cdef Flow flow
    if bare:
        if length >= VX_IPV6_LEN or (bare == 4 and length >= VX_IPV4_LEN):
            key[VERSION_AT], key[PROTO_AT] = bare, frame[9] if bare == 4 else frame[6]
            put_addresses(key + SOURCE_AT, key + DESTINATION_AT, frame, bare)
        return
    if length < VX_ETH_LEN:
        return
    dissect(frame, length, &flow, False)
    if flow.version == 0:
        memcpy(key + PORTS_AT, frame + 12, 2)
        memcpy(key + SOURCE_AT, frame + 6, 6)
        memcpy(key + DESTINATION_AT, frame, 6)
        return
    key[VERSION_AT], key[PROTO_AT] = flow.version, flow.proto
    put_addresses(key + SOURCE_AT, key + DESTINATION_AT, frame + flow.ip_off, flow.version)
    if flow.l4_off and flow.l4_off + 4 <= length and has_ports(flow.proto):
        memcpy(key + PORTS_AT, frame + flow.l4_off, 4)


cdef inline void put_addresses(uint8_t *source, uint8_t *destination, const uint8_t *ip,
                               uint8_t version) noexcept nogil:
    if version == 6:
        memcpy(source, ip + 8, ADDRESS_LEN)
        memcpy(destination, ip + 24, ADDRESS_LEN)
        return
    memset(source, 0, 10)
    memset(destination, 0, 10)
    vx_store16(source + 10, 0xFFFF)
    vx_store16(destination + 10, 0xFFFF)
    memcpy(source + 12, ip + 12, 4)
    memcpy(destination + 12, ip + 16, 4)
