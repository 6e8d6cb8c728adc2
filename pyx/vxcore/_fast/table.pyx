"""Tables: segments by VNI, remotes by address, known peers, neighbours, and the forwarding table (FDB).

Place in the house: above the C headers that hold what lanes execute, below lane. Here is the writer:
Python changes the tables while lanes read them. Lanes see a change of segments, remotes, flood sets,
peers and neighbours whole, from their next batch on; entries of the FDB, which lanes write too, one by
one. Neither side waits for the other.

The code that lanes and writer share is C (include/vx_pages.h, vx_table.h, vx_fdb.h), because a plain
program can then hold it to ThreadSanitizer; what only Python calls is here.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import ipaddress
import os
import threading
from array import array

import numpy as np

from vxcore._fast.c_bytes cimport vx_be16
from vxcore._fast.c_events cimport vx_wake_reader
from vxcore._fast.c_table cimport *
from vxcore._fast.events cimport Ring
from vxcore.errors import TableFullError

cdef enum:
    MAX_MOVES = 255
    RENEW_AFTER = 1024       # flushes, a quarter of the generations there are
    LANE_BATCH = 256         # addresses that Reader.fdb_find looks up at a time, as a lane does
    SLACK = 4096             # entries that lanes may add while the FDB is read
    MAX_PREFIXES = 64        # of one segment: looked through for packets that no remote has sent
    DSTPORT = 4789           # RFC 7348 section 8
    REMOTE_BITS = 20         # of a remote's number in a key of Pairs (VX_MAX_REMOTES)
    PAIRS_AT_ONCE = 4096
    KEPT = 1                 # in a log of old values: this row was not applied

cdef uint64_t MAC_BITS = 0xFFFFFFFFFFFF
cdef uint64_t NO_PAIR = 0xFFFFFFFFFFFFFFFF
PORT = VX_TARGET_PORT
ANY_VNI = VX_ANY_VNI         # names the segment of all VNIs that have none
_SETTABLE = {"static": VX_STATIC, "control": VX_CONTROL, "sticky": VX_STICKY}
KINDS = {"learned": VX_LEARNED, "frozen": VX_FROZEN, **_SETTABLE}

FDB_ROW = np.dtype([("vni", "u4"), ("kind", "u1"), ("mac", "u8"), ("remote", "i4"), ("port", "i4"),
                    ("sequence", "u4"), ("seen_s", "u4")], align=True)
SEGMENT_ROW = np.dtype([("segment", "u4"), ("vni", "u4"), ("port", "u4"), ("n_flood", "u4"),
                        ("ageing_s", "u4"), ("max_learned", "u4"), ("n_learned", "u4"), ("learning", "?"),
                        ("any_source", "?"), ("dstport", "u2")])
REMOTE_ROW = np.dtype([("remote", "u4"), ("family", "u4"), ("address", "u1", 16), ("name", "u1", 28),
                       ("listed", "?"), ("spoke", "?")])
NEIGHBOUR_ROW = np.dtype([("vni", "u4"), ("address", "u1", 16), ("mac", "u8"), ("router", "?")])
SEEN = ("well", "elsewhere", "looping")
FLOODED = ("broadcast", "multicast", "unknown_unicast")

_COUNTERS = ("learned", "moves", "frozen", "held", "refused", "overflow", "aged", "flushed")


def as_words(values, dtype: type, what: str):
    """`values` as a contiguous array of the unsigned `dtype`, checked to fit; a number is one row."""
    given = np.atleast_1d(np.asarray(values))
    if given.ndim != 1:
        raise ValueError(f"{what}: {given.ndim} dimensions, not one")
    if given.dtype != dtype and given.size:
        if given.dtype.kind not in "iu":
            raise TypeError(f"{what}: {given.dtype} numbers, not unsigned integers")
        if int(given.min()) < 0 or int(given.max()) > np.iinfo(dtype).max:
            raise ValueError(f"{what}: {given.min()} to {given.max()} do not fit {np.dtype(dtype)}")
    return np.ascontiguousarray(given, dtype)


def as_rows(values, n: int, dtype: type, what: str):
    """As `as_words`, and one number stands for `n` of it."""
    rows = as_words(values, dtype, what)
    if np.ndim(values) == 0:
        return np.full(n, rows[0], dtype)
    if len(rows) != n:
        raise ValueError(f"{what}: {len(rows)} rows, not {n}")
    return rows


def as_macs(values):
    """MAC addresses as uint64, from numbers or from (n, 6) uint8."""
    given = np.asarray(values)
    if given.dtype == np.uint8 and given.ndim == 2 and given.shape[1] == 6:
        wide = np.zeros((len(given), 8), np.uint8)
        wide[:, 2:] = given
        return np.ascontiguousarray(wide.view(">u8")[:, 0], np.uint64)
    return as_words(given, np.uint64, "mac")


def first(flags) -> int:
    """Index of the first true one, or -1."""
    at = int(flags.argmax()) if len(flags) else 0
    return at if len(flags) and flags[at] else -1


def mac_text(mac: int) -> str:
    return int(mac).to_bytes(8, "big").hex(":").removeprefix("00:00:")


def address_text(address: bytes) -> str:
    mapped = ipaddress.IPv6Address(address)
    return str(mapped.ipv4_mapped or mapped)


def target_text(target: int) -> str:
    return f"remote {target}" if target < PORT else f"overlay port {target - PORT}"


def check_macs(vnis, macs) -> None:
    """Raise ValueError, naming the first, where one is not the address of a station."""
    at = first((macs == 0) | (macs >> np.uint64(40) & np.uint64(1) != 0) | (macs >> np.uint64(48) != 0))
    if at >= 0:
        what = "it has more than 48 bits" if int(macs[at]) >> 48 else "not the address of one station"
        raise ValueError(f"VNI {vnis[at]}, {mac_text(macs[at])}: {what}")


def check_policy(vnis, ageing_s: int, max_learned: int) -> None:
    """Raise ValueError, naming the first VNI, where a number does not fit."""
    limits = (("ageing_s", ageing_s, VX_MAX_AGEING_S), ("max_learned", max_learned, 0xFFFFFFFF))
    for what, given, most in limits:
        if not 0 <= given <= most and len(vnis):
            raise ValueError(f"VNI {vnis[0]}: {what} {given}; 0 to {most} is right")


def check_dstport(dstport: int) -> None:
    """Raise ValueError for what is no UDP port."""
    if not 1 <= dstport <= 65535:
        raise ValueError(f"UDP port {dstport}; 1 to 65535 is right")


def set_targets(values):
    """Of FDB values as `replaced` gives them, the target of each that was set by the control side, as
    int64 (n,); -1 for learned ones, none and those that stayed as they were.
    """
    words = np.asarray(values, np.uint64)
    kinds = words >> np.uint64(VX_KIND_SHIFT) & np.uint64(7)
    is_set = (kinds >= VX_STATIC) & (kinds <= VX_STICKY)
    targets = (words & np.uint64((1 << VX_KIND_SHIFT) - 1)).astype(np.int64)
    return np.where(is_set, targets, -1)


cdef uint16_t with_flag(uint16_t flags, uint16_t flag, wanted):
    if wanted is None:
        return flags
    return flags | flag if wanted else flags & ~flag


cdef class Pairs:
    """How often VNIs are paired with remotes, by whatever pairs them: a count for each pair that has any."""

    cdef object _keys, _counts
    cdef uint64_t n_used, mask

    def __cinit__(self):
        self._make(1024)

    cdef int _make(self, uint64_t n) except -1:
        self._keys, self._counts = np.zeros(n, np.uint64), np.zeros(n, np.int64)
        self.mask, self.n_used = n - 1, 0
        return 0

    def change(self, vni, remote, sign: int):
        """Count one pair more (1) or less (-1) for each row: VNIs, uint32 (n,), remotes, int64 (n,), of
        which -1 is none. Return with which rows a pair came to be, or ceased to be: bool (n,).
        """
        keys = (vni.astype(np.uint64) << np.uint64(REMOTE_BITS) | remote.astype(np.uint64)) + 1
        keys[remote < 0] = 0
        return self.add(keys, np.full(len(keys), sign, np.int64))

    def forget(self, vnis):
        """Count nothing any more for some VNIs; return what ``add`` takes to bring it back, and the
        remotes of these pairs.
        """
        of_vni = np.isin((self._keys - 1) >> np.uint64(REMOTE_BITS), vnis)
        rows = np.flatnonzero(of_vni & (self._counts > 0))
        keys, counts = self._keys[rows], self._counts[rows]
        self._counts[rows] = 0
        return keys, counts, (keys - 1 & np.uint64((1 << REMOTE_BITS) - 1)).astype(np.int64)

    def add(self, keys, counts):
        """Add counts, int64 (n,), to pairs by their keys, uint64 (n,); see `change`."""
        changed = np.zeros(len(keys), np.uint8)
        for at in range(0, len(keys), PAIRS_AT_ONCE):
            some = slice(at, at + PAIRS_AT_ONCE)
            if 2 * (self.n_used + PAIRS_AT_ONCE) > self.mask:
                self._renew()
            self._add(keys[some], counts[some], changed[some])
        return changed.view(np.bool)

    def _renew(self) -> None:
        """Room for as many again, without the pairs that ceased to be."""
        cdef uint64_t n = 1024
        live = self._counts > 0
        keys, counts = self._keys[live], self._counts[live]
        while n < <uint64_t>(4 * (len(keys) + PAIRS_AT_ONCE)):
            n *= 2
        self._make(n)
        self._add(keys, counts, np.zeros(len(keys), np.uint8))

    def _add(self, const uint64_t[::1] keys, const int64_t[::1] counts, uint8_t[::1] changed) -> None:
        cdef uint64_t[::1] own = self._keys
        cdef int64_t[::1] sums = self._counts
        cdef uint64_t at
        cdef int64_t before
        cdef Py_ssize_t i
        for i in range(keys.shape[0]):
            if keys[i] == 0:
                continue
            at = vx_hash_peer(keys[i]) & self.mask
            while own[at] != 0 and own[at] != keys[i]:
                at = (at + 1) & self.mask
            self.n_used += own[at] == 0
            own[at], before = keys[i], sums[at]
            sums[at] = before + counts[i]
            changed[i] = (before == 0) != (sums[at] == 0)


class Change:
    """``with tables.transaction():``; see there. Transactions nest, and the outermost publishes."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def __enter__(self) -> None:
        self._tables._begin()

    def __exit__(self, kind, error, trace) -> None:
        self._tables._end(error is not None)


cdef class Tables:
    """Room for `max_segments` segments, `max_remotes` remotes, `max_flood` flood-set members in all, and
    `max_entries` FDB entries. An address that moves `max_moves` times (0: any number) within
    `moves_window_s` seconds is frozen to where it is (RFC 7432 section 15.1).

    One change at a time: the methods may be called from any thread and take turns. Each applies whole
    or raises with nothing applied. Raises MemoryError.
    """

    def __cinit__(self, max_segments: int, max_remotes: int, max_flood: int, max_entries: int = 65536, *,
                  max_moves: int = 5, moves_window_s: int = 180):
        limits = (("segments", max_segments, VX_N_VNIS), ("remotes", max_remotes, VX_MAX_REMOTES),
                  ("FDB entries", max_entries, 1 << 31), ("moves", max_moves, MAX_MOVES),
                  ("seconds of moves", moves_window_s, (1 << 24) - 1))
        for what, given, most in limits:
            if not 0 <= given <= most:
                raise ValueError(f"{given} {what}: at most {most}")
        self.t = <vx_tables *>vx_map(sizeof(vx_tables), False)
        if self.t == NULL or not vx_open(self.t, max_segments, max_entries):
            raise MemoryError("no memory for the tables")
        self.t.fdb.max_moves, self.t.fdb.moves_window_s = max_moves, moves_window_s
        self.t.fdb.seed[0], self.t.fdb.seed[1] = (int.from_bytes(os.urandom(8), "big") for _ in range(2))
        self.t.seats[0].taken = True  # the writer's own
        self.max_segments, self.max_remotes, self.max_flood = max_segments, max_remotes, max_flood
        self._lock = threading.RLock()
        self._free_segments, self._free_remotes = array("I"), array("I")
        self._free_neighbours = array("I")

    def __dealloc__(self):
        if self.t != NULL:
            vx_close(self.t, self.n_segments)
            vx_unmap(self.t, sizeof(vx_tables))

    cdef Seat *take_seat(self) except NULL:
        with self._lock:
            for i in range(<int>VX_MAX_SEATS):
                if not self.t.seats[i].taken:
                    self.t.seats[i].taken = True
                    return &self.t.seats[i]
        raise ValueError(f"more than {VX_MAX_SEATS - 1} readers of one set of tables")

    # -- changes as a whole --------------------------------------------------------------------

    def transaction(self) -> Change:
        """Everything that is changed inside ``with tables.transaction():`` becomes visible to lanes at
        once at its end (FDB entries earlier, but none points to what lanes cannot see yet).

        An exception undoes all of it. Arrays that were given must stay as they are until the end.
        """
        return Change(self)

    def _begin(self) -> None:
        self._lock.acquire()
        self._depth += 1
        if self._depth > 1:
            return
        try:
            if (self.t.generation - self.t.renewed) % VX_GENERATIONS >= RENEW_AFTER:
                self._renew()
        except BaseException:
            self._depth -= 1
            self._lock.release()
            raise
        self._before = (self.n_segments, self.n_remotes, self.n_neighbours, self.n_peers, self.n_addresses,
                        self.n_asked, self.n_flood)
        self._undo, self._flushed, self._cleared = [], [], set()
        self._failed = self._purge = False
        vx_enter(&self.t.seats[0])

    def _end(self, failed: bool) -> None:
        try:
            self._failed = self._failed or failed
            if self._depth > 1:
                return
            if self._failed:
                self._abort()
                if not failed:
                    raise RuntimeError("a change inside the transaction failed, so nothing was applied")
            else:
                self._publish()
        finally:
            self._depth -= 1
            if self._depth == 0:
                vx_leave(&self.t.seats[0])
                self._undo = self._flushed = None
            self._lock.release()

    def _abort(self) -> None:
        for rows in reversed(self._undo):
            self._restore(*rows)
        vx_abort(self.t)
        (self.n_segments, self.n_remotes, self.n_neighbours, self.n_peers, self.n_addresses, self.n_asked,
         self.n_flood) = self._before
        self._free_segments = self._unused(self.n_segments, False)
        self._free_remotes = self._unused(self.n_remotes, True)
        free = [i for i in range(self.n_neighbours) if not self._neighbour(i).mac]
        self._free_neighbours = array("I", free)

    def _unused(self, n: int, remotes: bool):
        """Numbers below `n` that no segment or remote has."""
        cdef uint32_t i
        free = array("I")
        for i in range(<uint32_t>n):
            if not (self._remote(i).family if remotes else self._segment(i).flags):
                free.append(i)
        return free

    def _publish(self) -> None:
        cdef vx_view *view
        if not vx_is_changed(self.t):
            vx_collect(self.t)
            return
        view = vx_prepare(self.t)
        if view == NULL:
            self._abort()
            raise MemoryError("no memory for the changed tables; nothing was applied")
        for vnis in self._flushed:
            self._reset_counts(vnis)
        vx_publish(self.t, view)
        if self._purge:
            self._purge_now()

    def _reset_counts(self, const uint32_t[::1] vnis) -> None:
        """Before lanes see that the VNIs were flushed: what they learned until then counts no more."""
        cdef Py_ssize_t i
        for i in range(vnis.shape[0]):
            vx_put(&self.t.fdb.states[vnis[i]].learned, <uint64_t>self.t.generation << 32)

    def _purge_now(self) -> None:
        """Remove the entries of segments and remotes that are gone, and make their numbers free."""
        with nogil:
            self._let_lanes_pass()
            vx_fdb_purge(&self.t.seats[0])
        self._free_remotes = self._unused(self.n_remotes, True)

    def wait_for_lanes(self) -> None:
        """Wait until every lane has begun a batch, or sleeps, since this was called. Releases the GIL."""
        with Change(self), nogil:
            self._let_lanes_pass()

    cdef void _let_lanes_pass(self) noexcept nogil:
        """Wait for the end of the lanes' batches: then all see the newest view, and removed entries' places
        can be used again.
        """
        vx_wait_for_lanes(self.t, &self.t.seats[0])
        vx_enter(&self.t.seats[0])
        vx_collect(self.t)

    def _renew(self) -> None:
        """Count generations from anew: forget what was flushed, and then the flushes themselves."""
        cdef vx_view *view
        with nogil:
            self._let_lanes_pass()
            vx_fdb_renew(&self.t.seats[0])
            vx_leave(&self.t.seats[0])
        try:
            self._forget_flushes()
        except MemoryError:
            vx_abort(self.t)
            raise
        view = vx_prepare(self.t)
        if view == NULL:
            vx_abort(self.t)
            raise MemoryError("no memory for the changed tables; nothing was applied")
        self.t.renewed = self.t.generation
        vx_publish(self.t, view)

    def _forget_flushes(self) -> None:
        cdef uint32_t i
        for i in range(self.n_segments):
            if self._segment(i).flushed:
                vx_forget_flush(&self.t.fdb.states[self._segment(i).vni])
                self._edit_segment(i).flushed = 0
        for i in range(self.n_remotes):
            if self._remote(i).flushed:
                self._edit_remote(i).flushed = 0
        for i in range(<uint32_t>VX_MAX_PORTS):
            if (<const uint32_t *>vx_array_get(&self.t.arrays[VX_PORTS], i))[0]:
                self._set_word(VX_PORTS, i, 0)

    # -- the arrays of the draft ---------------------------------------------------------------

    cdef const Segment *_segment(self, uint32_t segment) noexcept nogil:
        return <const Segment *>vx_array_get(&self.t.arrays[VX_SEGMENTS], segment)

    cdef const Remote *_remote(self, uint32_t remote) noexcept nogil:
        return <const Remote *>vx_array_get(&self.t.arrays[VX_REMOTES], remote)

    cdef int32_t _segment_of(self, uint32_t vni) noexcept nogil:
        if vni > VX_ANY_VNI:
            return NONE
        return <int32_t>(<const uint32_t *>vx_array_get(&self.t.arrays[VX_VNIS], vni))[0] - 1

    cdef Segment *_edit_segment(self, uint32_t segment) except NULL:
        return <Segment *>self._edit(VX_SEGMENTS, segment)

    cdef Remote *_edit_remote(self, uint32_t remote) except NULL:
        return <Remote *>self._edit(VX_REMOTES, remote)

    cdef void *_edit(self, int which, uint64_t at) except NULL:
        cdef void *item = vx_array_edit(&self.t.arrays[which], at)
        if item == NULL:
            raise MemoryError("no memory for the changed tables; nothing was applied")
        return item

    cdef int _set_word(self, int which, uint64_t at, uint32_t word) except -1:
        (<uint32_t *>self._edit(which, at))[0] = word
        return 0

    # -- the hash sets: (segment, remote) pairs, remotes by address, neighbours by segment and address

    cdef int _add_peer(self, uint64_t key) except -1:
        cdef uint64_t at
        if 2 * (self.n_peers + 1) > self.t.peers_mask:
            self._regrow(VX_PEERS)
        at = vx_peer_place(self.t, key)
        if (<const uint64_t *>vx_array_get(&self.t.arrays[VX_PEERS], at))[0] == 0:
            (<uint64_t *>self._edit(VX_PEERS, at))[0] = key
            self.n_peers += 1
        return 0

    cdef int _add_address(self, uint32_t remote) except -1:
        if 2 * (self.n_addresses + 1) > self.t.addresses_mask:
            self._regrow(VX_ADDRESSES)
        self._set_word(VX_ADDRESSES, vx_address_place(self.t, self._remote(remote).address), remote + 1)
        self.n_addresses += 1
        return 0

    cdef int _remove_peer(self, uint64_t key) except -1:
        cdef uint64_t at = vx_peer_place(self.t, key)
        if self._slot(VX_PEERS, at):
            self._close_gap(VX_PEERS, at)
            self.n_peers -= 1
        return 0

    cdef int _remove_address(self, uint32_t remote) except -1:
        self._close_gap(VX_ADDRESSES, vx_address_place(self.t, self._remote(remote).address))
        self.n_addresses -= 1
        return 0

    cdef uint64_t *_mask(self, int which) noexcept nogil:
        if which == VX_PEERS:
            return &self.t.peers_mask
        return &self.t.asked_mask if which == VX_ASKED else &self.t.addresses_mask

    cdef uint64_t _slot(self, int which, uint64_t at) noexcept nogil:
        cdef const void *item = vx_array_get(&self.t.arrays[which], at)
        return (<const uint64_t *>item)[0] if which == VX_PEERS else (<const uint32_t *>item)[0]

    cdef uint64_t _home(self, int which, uint64_t item) noexcept nogil:
        if which == VX_PEERS:
            return vx_hash_peer(item)
        if which == VX_ASKED:
            return vx_hash_neighbour(self._neighbour(<uint32_t>item - 1).segment,
                                     self._neighbour(<uint32_t>item - 1).address)
        return vx_hash_address(self._remote(<uint32_t>item - 1).address)

    cdef int _set_slot(self, int which, uint64_t at, uint64_t item) except -1:
        if which == VX_PEERS:
            (<uint64_t *>self._edit(which, at))[0] = item
            return 0
        return self._set_word(which, at, <uint32_t>item)

    cdef int _close_gap(self, int which, uint64_t gap) except -1:
        """Free a place, and move up what was pushed past it, so that no search ends too early."""
        cdef uint64_t mask = self._mask(which)[0]
        cdef uint64_t at = gap, item
        while True:
            at = (at + 1) & mask
            item = self._slot(which, at)
            if item == 0:
                return self._set_slot(which, gap, 0)
            if ((at - self._home(which, item)) & mask) >= ((at - gap) & mask):
                self._set_slot(which, gap, item)
                gap = at

    cdef int _regrow(self, int which) except -1:
        """Twice the room."""
        cdef uint64_t mask = self._mask(which)[0]
        cdef uint64_t at, item, i
        cdef uint64_t[::1] items = np.empty(mask + 1, np.uint64)
        for i in range(mask + 1):
            items[i] = self._slot(which, i)
        if not vx_array_renew(&self.t.arrays[which], 2 * (mask + 1)):
            raise MemoryError("no memory for the changed tables; nothing was applied")
        mask = 2 * mask + 1
        self._mask(which)[0] = mask
        for item in items:
            if item:
                at = self._home(which, item) & mask
                while self._slot(which, at):
                    at = (at + 1) & mask
                self._set_slot(which, at, item)
        return 0

    # -- remotes -------------------------------------------------------------------------------

    def add_remote(self, address: bytes, name: bytes) -> int:
        """Add a remote by its 16-byte address and the sockaddr to send to; return its number.

        Raises ValueError when the address is another's, or there is no room.
        """
        cdef uint32_t number = self.n_remotes
        with Change(self):
            self._check_remote(address, name)
            if self._free_remotes:
                number = self._free_remotes.pop()
            if number >= self.max_remotes:
                raise ValueError(f"more than {self.max_remotes} remotes")
            self.n_remotes = max(self.n_remotes, number + 1)
            self._fill_remote(number, address, name)
        return number

    def replace_remote(self, remote: int, address: bytes, name: bytes) -> None:
        """Give a remote another address and sockaddr; what points to it keeps pointing to it."""
        with Change(self):
            self._require_remote(remote)
            if bytes(self._remote(remote).address[:ADDRESS_LEN]) != address:
                self._check_remote(address, name)
            self._remove_address(remote)
            self._fill_remote(remote, address, name)

    def remove_remotes(self, remotes) -> None:
        """Remove remotes with all FDB entries and peer pairs that name them.

        Raises ValueError, naming the first, when one is unknown or in the flood set of a segment.
        """
        cdef uint32_t[::1] numbers = as_words(remotes, np.uint32, "remote")
        cdef Py_ssize_t i
        with Change(self):
            for i in range(numbers.shape[0]):
                self._require_remote(numbers[i])
            self._require_unused(np.asarray(numbers))
            self._drop_peers(1, set(np.asarray(numbers).tolist()))
            for i in range(numbers.shape[0]):
                self._require_remote(numbers[i])  # a number may be there twice
                self._remove_address(numbers[i])
                memset(self._edit_remote(numbers[i]), 0, sizeof(vx_remote))
            self._purge = True

    def find_remote(self, address: bytes) -> int:
        """The number of the remote with a 16-byte address, or -1."""
        cdef const uint8_t *raw = address
        with Change(self):
            return <int64_t>self._slot(VX_ADDRESSES, vx_address_place(self.t, raw)) - 1

    def remote_address(self, remote: int) -> bytes:
        """The 16-byte address of a remote. Raises ValueError when there is no such remote."""
        with Change(self):
            self._require_remote(remote)
            return bytes(self._remote(remote).address[:ADDRESS_LEN])

    def list_remote(self, remote: int, segments) -> None:
        """Let a remote speak in these segments only; None: in all."""
        cdef Remote *edited
        with Change(self):
            self._require_remote(remote)
            edited = self._edit_remote(remote)
            edited.flags = edited.flags & ~<uint32_t>VX_REMOTE_LISTED | (
                0 if segments is None else VX_REMOTE_LISTED)
            for pair in self._pairs() if self.n_peers else ():
                if pair[1] == remote | VX_LISTED:
                    self._remove_peer(vx_peer_key(pair[0], pair[1]))
            for segment in segments or ():
                self.let_speak(remote, segment)

    def let_speak(self, remote: int, segment: int) -> None:
        """Let a remote that `list_remote` restricts speak in one more segment."""
        with Change(self):
            self._require_remote(remote)
            self._require_segment(segment)
            self._add_peer(vx_peer_key(segment, remote | VX_LISTED))

    def mark_spoke(self, remote: int, spoke: bool) -> None:
        """Let what a remote sends to others that are marked go on to them, or no longer."""
        cdef uint32_t segment
        cdef Remote *edited
        with Change(self):
            self._require_remote(remote)
            edited = self._edit_remote(remote)
            edited.flags = edited.flags & ~<uint32_t>VX_REMOTE_SPOKE | (VX_REMOTE_SPOKE if spoke else 0)
            for segment in range(self.n_segments):
                self._mark_relaying(segment)

    cdef int _mark_relaying(self, uint32_t segment) except -1:
        """Note whether some of a segment's flood set are spokes."""
        cdef const Segment *s = self._segment(segment)
        cdef uint16_t flags = s.flags & ~<uint16_t>VX_SEGMENT_RELAYS
        cdef uint32_t k
        for k in range(s.n_flood):
            if self._remote(vx_flood(s)[k]).flags & VX_REMOTE_SPOKE:
                flags |= VX_SEGMENT_RELAYS
                break
        if flags != s.flags:
            self._edit_segment(segment).flags = flags
        return 0

    def _check_remote(self, address: bytes, name: bytes) -> None:
        cdef const uint8_t *raw = address
        if len(address) != ADDRESS_LEN or len(name) not in (16, VX_NAME_LEN):
            raise ValueError(f"{len(address)} and {len(name)} bytes; an address has 16, a sockaddr 16 or 28")
        if self._slot(VX_ADDRESSES, vx_address_place(self.t, raw)):
            raise ValueError(f"remote {address.hex()} is there already")

    def _require_remote(self, remote: int) -> None:
        if not 0 <= remote < self.n_remotes or self._remote(remote).family == 0:
            raise ValueError(f"there is no remote {remote}")

    def _require_unused(self, remotes) -> None:
        """No segment may flood to them."""
        cdef uint32_t segment
        cdef uint32_t k
        cdef const Segment *s
        gone = np.zeros(VX_MAX_REMOTES, np.uint8)
        gone[remotes] = 1
        cdef const uint8_t[::1] flags = gone
        for segment in range(self.n_segments):
            s = self._segment(segment)
            for k in range(s.n_flood):
                if flags[vx_flood(s)[k]]:
                    raise ValueError(f"remote {vx_flood(s)[k]} is in the flood set of VNI {s.vni}")

    cdef int _fill_remote(self, uint32_t number, address, name) except -1:
        cdef Remote *remote = self._edit_remote(number)
        cdef const uint8_t *raw_address = address
        cdef const uint8_t *raw_name = name
        memcpy(remote.address, raw_address, ADDRESS_LEN)
        memset(remote.name, 0, VX_NAME_LEN)
        memcpy(remote.name, raw_name, len(name))
        remote.name_len = len(name)
        remote.family = 4 if len(name) == 16 else 6
        return self._add_address(number)

    def _flush_vnis(self, vnis) -> int:
        """At the end of the transaction begin to count anew what the VNIs learn; as of which generation."""
        self._flushed.append(vnis)
        return self._next_generation()

    cdef uint32_t _next_generation(self) noexcept:
        """The generation of this transaction: one for all that it flushes."""
        if self.t.generation == self.t.view.generation:
            self.t.generation = self.t.generation % (VX_GENERATIONS - 1) + 1  # 0 is no generation
        return self.t.generation

    # -- segments ------------------------------------------------------------------------------

    def add_segment(self, vni: int, port: int, flood, *, learning: bool, ageing_s: int, max_learned: int,
                    any_source: bool = False, dstport: int = DSTPORT) -> int:
        """Add a segment with its overlay port and flood set (remote numbers); return its number.

        Its sources are the members of the flood set and its peers, or with `any_source` every remote.
        `dstport` is the UDP port that its packets are sent to, by us and by them.
        Raises ValueError when the VNI is there already, a remote is unknown, or there is no room.
        """
        members = np.array(sorted(set(flood)), np.uint32)[np.newaxis]
        return int(self.add_segments([vni], members, port=port, learning=learning, ageing_s=ageing_s,
                                     max_learned=max_learned, any_source=any_source, dstport=dstport)[0])

    def add_segments(self, vni, flood, *, port=0, learning: bool = True, ageing_s: int = 300,
                     max_learned: int = 0, any_source: bool = False, dstport: int = DSTPORT):
        """Add segments: `vni` (n,), `flood` one remote each (n,) or the same number for each (n, k),
        `port` one or (n,). Return their numbers as uint32 (n,). Otherwise as `add_segment`.
        """
        vnis = as_words(vni, np.uint32, "vni")
        ports = as_rows(port, len(vnis), np.uint32, "port")
        members = self._flood_rows(vnis, flood)
        numbers = np.empty(len(vnis), np.uint32)
        flags = (VX_SEGMENT_PRESENT | (VX_SEGMENT_LEARNS if learning else 0)
                 | (VX_SEGMENT_ANY_SOURCE if any_source else 0))
        check_policy(vnis, ageing_s, max_learned)
        check_dstport(dstport)
        with Change(self):
            self._check_ports(vnis, ports)
            self._number_segments(vnis, numbers, members.shape[1])
            self._fill_segments(vnis, ports, members, numbers, ageing_s, max_learned, flags, dstport)
        return numbers

    def add_collector(self, vni: int, port: int, ranges=(), *, any_source: bool = False,
                      dstports=(DSTPORT,)) -> int:
        """Add a segment that only receives: `vni`, or ANY_VNI for those that have no segment, and all VNIs of
        `ranges`, pairs of the first and the last, on the UDP ports `dstports`. Return its number. Raises as
        `add_segment`.
        """
        cdef uint32_t number = 0, word, marked, last
        flags = VX_SEGMENT_PRESENT | VX_SEGMENT_COLLECTS | (VX_SEGMENT_ANY_SOURCE if any_source else 0)
        numbers, vnis, ports = np.empty(1, np.uint32), np.array([vni], np.uint32), np.array([port], np.uint32)
        with Change(self):
            self._check_ports(vnis, ports)
            self._number_segments(vnis, numbers, 0)
            self._fill_segments(vnis, ports, np.empty((1, 0), np.uint32), numbers, 0, 0, flags, 0)
            number = numbers[0]
            self._set_dstports(number, list(dstports))
            for marked, last in ranges:
                while marked <= last and marked < VX_N_VNIS:
                    word = self._segment_of(marked) + 1
                    if word and word != number + 1:
                        raise ValueError(f"VNI {marked} is there already")
                    self._set_word(VX_VNIS, marked, number + 1)
                    marked += 1
        return int(number)

    def _set_dstports(self, number: int, dstports: list[int]) -> None:
        cdef vx_policy *policy = <vx_policy *>self._edit(VX_POLICIES, number)
        cdef int i
        if not 1 <= len(dstports) <= VX_MAX_DSTPORTS:
            raise ValueError(f"{len(dstports)} UDP ports; 1 to {VX_MAX_DSTPORTS} are right")
        for dstport in dstports:
            check_dstport(dstport)
        for i in range(<int>VX_MAX_DSTPORTS):  # all, for a segment before may have had ports here
            policy.dstports_be[i] = vx_be16(dstports[i]) if i < len(dstports) else 0

    def change_segment(self, segment: int, *, port=None, flood=None, learning=None, ageing_s=None,
                       max_learned=None, any_source=None, dstport=None) -> None:
        """Change what is given of a segment, and nothing else of it."""
        cdef Segment *s
        with Change(self):
            self._require_segment(segment)
            vni = [self._segment(segment).vni]
            check_policy(vni, ageing_s or 0, max_learned or 0)
            if dstport is not None:
                check_dstport(dstport)
                self._edit_segment(segment).dstport_be = vx_be16(dstport)
            if port is not None:
                self._check_ports(vni, as_words(port, np.uint32, "port"))
            if flood is not None:
                self._change_flood(segment, flood)
            s = self._edit_segment(segment)
            s.port = s.port if port is None else port
            s.ageing_s = s.ageing_s if ageing_s is None else ageing_s
            s.max_learned = s.max_learned if max_learned is None else max_learned
            s.flags = with_flag(s.flags, VX_SEGMENT_LEARNS, learning)
            s.flags = with_flag(s.flags, VX_SEGMENT_ANY_SOURCE, any_source)

    def set_policy(self, segment: int, *, rates=(None, None, None), bursts=(1, 1, 1), prefixes=(),
                   hold_ms=None) -> None:
        """What a segment floods, and whom it takes packets from beside its peers.

        `rates` are packets a second of broadcast, multicast and unknown unicast frames that hosts send
        into it, of all lanes together; None: any number, 0: none. `bursts` is how many may come at once.
        `hold_ms` is not None: unknown unicast is not flooded, but waits so long until it is known where to.
        `prefixes` are pairs of a 16-byte address and the number of its bits, of 128, that must agree.
        """
        cdef vx_policy *policy
        cdef int i
        with Change(self):
            self._require_segment(segment)
            self._edit_segment(segment).flags |= VX_SEGMENT_HAS_POLICY
            policy = <vx_policy *>self._edit(VX_POLICIES, segment)
            for i in range(<int>VX_N_FLOODED):
                policy.rate[i] = <uint32_t>VX_UNLIMITED if rates[i] is None else <uint32_t>rates[i]
                policy.burst[i] = bursts[i]
            if hold_ms is not None:
                policy.rate[<int>VX_UNKNOWN_UNICAST] = <uint32_t>VX_ASK
            policy.hold_ms = hold_ms or 0
            self._set_prefixes(policy, list(prefixes))

    cdef int _set_prefixes(self, vx_policy *policy, list prefixes) except -1:
        cdef vx_prefix rows[MAX_PREFIXES]
        cdef const uint8_t *raw
        if len(prefixes) > MAX_PREFIXES:
            raise ValueError(f"{len(prefixes)} prefixes; at most {MAX_PREFIXES}")
        for i, (address, n_bits) in enumerate(prefixes):
            raw = address
            if len(address) != ADDRESS_LEN or not 0 <= n_bits <= 128:
                raise ValueError(f"prefix {address.hex()}/{n_bits}: 16 bytes and 0 to 128 bits are right")
            memcpy(rows[<int>i].address, raw, ADDRESS_LEN)
            rows[<int>i].n_bits = n_bits
        if not vx_set_prefixes(self.t, policy, rows, len(prefixes)):
            raise MemoryError("no memory for the changed tables; nothing was applied")
        return 0

    def set_ports(self, segment: int, ports) -> None:
        """Give a segment several overlay ports, 2 to 8, in the place of the one it has: frames go between
        them, too, and its hosts are learned behind them. Raises ValueError.
        """
        cdef vx_policy *policy
        numbers = list(ports)
        if not 2 <= len(set(numbers)) == len(numbers) <= VX_SEGMENT_PORTS:
            raise ValueError(f"{len(numbers)} overlay ports: 2 to {VX_SEGMENT_PORTS}, each once, are right")
        with Change(self):
            self._require_segment(segment)
            self._check_ports([self._segment(segment).vni] * len(numbers), np.array(numbers, np.uint32))
            policy = <vx_policy *>self._edit(VX_POLICIES, segment)
            policy.n_ports = len(numbers)
            for i, number in enumerate(numbers):
                policy.ports[<int>i] = number
            self._edit_segment(segment).port = numbers[0]
            self._edit_segment(segment).flags |= VX_SEGMENT_SWITCHES

    def policy(self, segment: int) -> dict:
        """What `set_policy` has set of a segment, under the same names."""
        cdef vx_policy policy
        cdef uint32_t i
        with Change(self):
            self._require_segment(segment)
            if not self._segment(segment).flags & VX_SEGMENT_HAS_POLICY:
                return {"rates": (None,) * 3, "bursts": (1,) * 3, "prefixes": [], "hold_ms": None}
            policy = (<const vx_policy *>vx_array_get(&self.t.arrays[VX_POLICIES], segment))[0]
            asks = policy.rate[<int>VX_UNKNOWN_UNICAST] == <uint32_t>VX_ASK
            rates = [None if rate >= <uint32_t>VX_ASK else rate for rate in policy.rate]
            prefixes = [(bytes(policy.prefixes[i].address[:ADDRESS_LEN]), policy.prefixes[i].n_bits)
                        for i in range(policy.n_prefixes)]
            return {"rates": tuple(rates), "bursts": tuple(policy.burst), "prefixes": prefixes,
                    "hold_ms": policy.hold_ms if asks else None}

    def find_segment(self, vni: int) -> int:
        """The number of the segment of a VNI, or -1."""
        with Change(self):
            return self._segment_of(vni)

    def find_segments(self, vni):
        """The numbers of the segments of VNIs, uint32 (n,), as int64 (n,); -1 for an unknown one."""
        cdef const uint32_t[::1] vnis = as_words(vni, np.uint32, "vni")
        cdef int64_t[::1] numbers = np.empty(vnis.shape[0], np.int64)
        cdef Py_ssize_t i
        with Change(self):
            for i in range(vnis.shape[0]):
                numbers[i] = self._segment_of(vnis[i])
        return np.asarray(numbers)

    def flood_counts(self, segments):
        """In how many of the flood sets of these segments, uint32 (n,), each remote is: int64 (remotes,)."""
        with Change(self):
            numbers = as_words(segments, np.uint32, "segment")
            counts = np.zeros(self.n_remotes, np.int64)
            self._count_flood(numbers, counts)
        return counts

    def _count_flood(self, const uint32_t[::1] numbers, int64_t[::1] counts) -> None:
        cdef const Segment *s
        cdef Py_ssize_t i
        cdef uint32_t k
        for i in range(numbers.shape[0]):
            self._require_segment(numbers[i])
            s = self._segment(numbers[i])
            for k in range(s.n_flood):
                counts[vx_flood(s)[k]] += 1

    def remove_segments(self, segments) -> None:
        """Remove segments with their FDB entries and peers. Raises ValueError when one is unknown."""
        cdef const uint32_t[::1] numbers = as_words(segments, np.uint32, "segment")
        cdef Py_ssize_t i
        with Change(self):
            for i in range(numbers.shape[0]):
                self._require_segment(numbers[i])
                if self._segment(numbers[i]).flags & VX_SEGMENT_COLLECTS:
                    raise ValueError(f"segment {numbers[i]} is a collector, which stays")
            self._drop_peers(0, set(np.asarray(numbers).tolist()) if self.n_peers else set())
            self._drop_neighbours(set(np.asarray(numbers).tolist()) if self.n_asked else set())
            for i in range(numbers.shape[0]):
                self._require_segment(numbers[i])  # a number may be there twice
                self._remove_segment(numbers[i])

    cdef int _remove_segment(self, uint32_t number) except -1:
        cdef Segment *s = self._edit_segment(number)
        if s.flags & VX_SEGMENT_HAS_POLICY:
            self._set_prefixes(<vx_policy *>self._edit(VX_POLICIES, number), [])
        if self.t.fdb.states[s.vni].n_set:
            self._purge = True
            self._cleared.add(s.vni)
        self._flush_vnis(np.array([s.vni], np.uint32))  # a later segment of this VNI starts from nothing
        self.n_flood -= s.n_flood
        self._set_word(VX_VNIS, s.vni, 0)
        if not vx_set_flood(self.t, s, NULL, 0):
            raise MemoryError("no memory for the changed tables; nothing was applied")
        memset(s, 0, sizeof(vx_segment))
        self._free_segments.append(number)
        return 0

    def _require_segment(self, segment: int) -> None:
        if not 0 <= segment < self.n_segments or self._segment(segment).flags == 0:
            raise ValueError(f"there is no segment {segment}")

    def _check_ports(self, vnis, ports) -> None:
        at = first(np.asarray(ports) >= VX_MAX_PORTS)
        if at >= 0:
            raise ValueError(f"VNI {vnis[at]}: overlay port {ports[at]}; at most {VX_MAX_PORTS - 1}")

    def _flood_rows(self, vnis, flood):
        """(n, k) uint32, each row ascending."""
        members = np.asarray(flood)
        members = members[:, np.newaxis] if members.ndim == 1 else members
        if members.ndim != 2 or len(members) != len(vnis):
            raise ValueError(f"flood: shape {members.shape}, not ({len(vnis)}, k)")
        shape = members.shape
        members = as_words(members.ravel(), np.uint32, "flood").reshape(shape)
        if shape[1] > 1:
            members = np.sort(members, axis=1)
            at = first((members[:, 1:] == members[:, :-1]).any(axis=1))
            if at >= 0:
                raise ValueError(f"VNI {vnis[at]}: a remote is in its flood set twice")
        return members

    def _check_flood(self, vnis, const uint32_t[:, ::1] members) -> None:
        cdef Py_ssize_t i, k
        for i in range(members.shape[0]):
            for k in range(members.shape[1]):
                if members[i, k] >= self.n_remotes or self._remote(members[i, k]).family == 0:
                    raise ValueError(f"VNI {vnis[i]}: there is no remote {members[i, k]} for its flood set")

    def _number_segments(self, const uint32_t[::1] vnis, uint32_t[::1] numbers, n_members: int) -> None:
        """Room and a number for each, or nothing: first those that are free again."""
        cdef Py_ssize_t i, n = vnis.shape[0], n_again = min(n, len(self._free_segments))
        n_new = n - n_again
        if n_new + self.n_segments > self.max_segments or self.n_flood + n * n_members > self.max_flood:
            raise ValueError(f"more than {self.max_segments} segments or {self.max_flood} flood members")
        for i in range(n_again):
            numbers[i] = self._free_segments.pop()
        for i in range(n_new):
            numbers[n_again + i] = self.n_segments + i
        self.n_segments += n_new
        self.n_flood += n * n_members

    def _fill_segments(self, const uint32_t[::1] vnis, const uint32_t[::1] ports,
                       const uint32_t[:, ::1] members, const uint32_t[::1] numbers,
                       ageing_s: int, max_learned: int, flags: int, dstport: int) -> None:
        cdef Segment model
        cdef Py_ssize_t i
        memset(&model, 0, sizeof(Segment))
        cdef bint some_cleared = len(self._cleared) > 0
        model.ageing_s, model.max_learned, model.flags = ageing_s, max_learned, flags
        model.dstport_be = vx_be16(dstport)
        self._check_flood(vnis, members)
        for i in range(vnis.shape[0]):
            if vnis[i] >= <uint32_t>VX_N_VNIS + (flags & VX_SEGMENT_COLLECTS != 0):
                raise ValueError(f"VNI {vnis[i]}: at most {VX_N_VNIS - 1}")
            if self._segment_of(vnis[i]) != NONE or (some_cleared and vnis[i] in self._cleared):
                raise ValueError(f"VNI {vnis[i]} is there already")
            model.vni, model.port = vnis[i], ports[i]
            self._fill_segment(&model, numbers[i], &members[i, 0] if members.shape[1] else NULL,
                               members.shape[1])

    cdef int _fill_segment(self, const Segment *model, uint32_t number, const uint32_t *members,
                           uint32_t n) except -1:
        cdef Segment *s = self._edit_segment(number)
        s[0] = model[0]
        if vx_get(&self.t.fdb.states[model.vni].learned):
            s.flushed = self._flush_vnis(np.array([model.vni], np.uint32))
        if not vx_set_flood(self.t, s, members, n):
            raise MemoryError("no memory for the changed tables; nothing was applied")
        self._mark_relaying(number)
        return self._set_word(VX_VNIS, model.vni, number + 1)

    def _change_flood(self, segment: int, flood) -> None:
        cdef const uint32_t[:, ::1] members = np.array(sorted(set(flood)), np.uint32)[np.newaxis]
        cdef Segment *s = self._edit_segment(segment)
        cdef uint32_t n = members.shape[1]
        self._check_flood([s.vni], members)
        if self.n_flood - s.n_flood + n > self.max_flood:
            raise ValueError(f"VNI {s.vni}: more than {self.max_flood} flood members in all")
        self.n_flood += n - <int64_t>s.n_flood
        if not vx_set_flood(self.t, s, &members[0, 0] if n else NULL, n):
            raise MemoryError("no memory for the changed tables; nothing was applied")
        self._mark_relaying(segment)

    # -- known peers ---------------------------------------------------------------------------

    def set_peers(self, pairs) -> None:
        """Set which (segment, remote) pairs are known peers beside the members of the flood sets."""
        with Change(self):
            self.remove_peers(self.peers().tolist())
            self.add_peers(pairs)

    def add_peers(self, pairs) -> None:
        """Let segments take packets from remotes; pairs that are known already do no harm."""
        with Change(self):
            for segment, remote in pairs:
                self._require_segment(segment)
                self._require_remote(remote)
                self._add_peer(vx_peer_key(segment, remote))

    def remove_peers(self, pairs) -> None:
        """Take back what `add_peers` gave; pairs that are not known do no harm."""
        with Change(self):
            for segment, remote in pairs:
                self._remove_peer(vx_peer_key(segment, remote))

    def pair(self, vni, remote, known: bool) -> None:
        """As `add_peers` (known) or `remove_peers` in bulk: VNIs, uint32 (n,), with remotes, int64 (n,). A
        VNI without a segment does no harm.
        """
        cdef const uint32_t[::1] vnis = vni
        cdef const int64_t[::1] remotes = remote
        cdef bint wanted = known
        cdef int32_t segment
        cdef Py_ssize_t i
        with Change(self):
            for i in range(vnis.shape[0]):
                segment = self._segment_of(vnis[i])
                if segment != NONE and wanted:
                    self._add_peer(vx_peer_key(segment, <uint32_t>remotes[i]))
                elif segment != NONE:
                    self._remove_peer(vx_peer_key(segment, <uint32_t>remotes[i]))

    def peers(self):
        """The pairs as uint32 (n, 2), ascending."""
        with Change(self):
            pairs = sorted(pair for pair in self._pairs() if not pair[1] & VX_LISTED)
            return np.array(pairs, np.uint32).reshape(-1, 2)

    def _pairs(self) -> list[tuple[int, int]]:
        cdef uint64_t at
        keys = [self._slot(VX_PEERS, at) for at in range(self.t.peers_mask + 1)]
        return [(key - 1 >> 32, key - 1 & 0xFFFFFFFF) for key in filter(None, keys)]

    def _drop_peers(self, side: int, numbers: set[int]) -> None:
        """Forget the pairs whose segment (side 0) or remote (side 1) is one of these."""
        cdef uint64_t at, key
        cdef uint8_t[::1] gone
        if self.n_peers == 0 or not numbers:
            return
        gone = np.zeros(max(self.n_segments, self.n_remotes, max(numbers) + 1), np.uint8)
        for number in numbers:
            gone[<Py_ssize_t>number] = 1
        found = []
        for at in range(self.t.peers_mask + 1):
            key = self._slot(VX_PEERS, at) - 1
            if key != NO_PAIR and gone[(key & (VX_LISTED - 1)) if side else (key >> 32)]:
                found.append(key + 1)
        for at in found:
            self._remove_peer(at)

    # -- neighbours ----------------------------------------------------------------------------

    cdef const vx_neighbour *_neighbour(self, uint32_t number) noexcept nogil:
        return <const vx_neighbour *>vx_array_get(&self.t.arrays[VX_NEIGHBOURS], number)

    def set_neighbours(self, vni, address, mac, router=False) -> None:
        """Set which link address an IP address has: `vni` one or uint32 (n,), `address` uint8 (n, 16), IPv4
        mapped, `mac` uint64 (n,) or uint8 (n, 6), `router` one or bool (n,); in the place of what is there.

        All or none: raises ValueError, naming the first that is wrong, or where there is no more room.
        """
        cdef const uint8_t[:, ::1] addresses = np.ascontiguousarray(address, np.uint8)
        cdef const uint64_t[::1] macs = as_macs(mac)
        cdef const uint32_t[::1] vnis = as_rows(vni, len(macs), np.uint32, "vni")
        cdef const uint8_t[::1] routers = np.full(len(macs), router, bool).view(np.uint8)
        cdef int32_t segment
        cdef Py_ssize_t i
        if addresses.shape[0] != macs.shape[0] or addresses.shape[1] != ADDRESS_LEN:
            raise ValueError(f"address: {np.asarray(addresses).shape} bytes, not {(len(macs), ADDRESS_LEN)}")
        check_macs(np.asarray(vnis), np.asarray(macs))
        with Change(self):
            for i in range(macs.shape[0]):
                segment = self._segment_of(vnis[i])
                if segment == NONE:
                    raise ValueError(f"VNI {vnis[i]}: there is no such segment")
                self._put_neighbour(segment, &addresses[i, 0],
                                    macs[i] | (VX_NEIGHBOUR_ROUTER if routers[i] else 0))

    cdef int _put_neighbour(self, uint32_t segment, const uint8_t *address, uint64_t mac) except -1:
        cdef uint64_t at
        cdef uint32_t number
        cdef vx_neighbour *row
        if 2 * (self.n_asked + 1) > self.t.asked_mask:
            self._regrow(VX_ASKED)
        at = vx_neighbour_place(self.t, segment, address)
        number = <uint32_t>self._slot(VX_ASKED, at)
        if number == 0:
            number = 1 + (self._free_neighbours.pop() if self._free_neighbours else self.n_neighbours)
            if number > VX_MAX_NEIGHBOURS:
                raise ValueError(f"more than {VX_MAX_NEIGHBOURS} neighbours")
            self.n_neighbours = max(self.n_neighbours, number)
        row = <vx_neighbour *>self._edit(VX_NEIGHBOURS, number - 1)
        memcpy(row.address, address, ADDRESS_LEN)
        row.mac, row.segment = mac | VX_NEIGHBOUR_PRESENT, segment
        if self._slot(VX_ASKED, at) == 0:
            self._set_word(VX_ASKED, at, number)
            self.n_asked += 1
        if not self._segment(segment).flags & VX_SEGMENT_ANSWERS:
            self._edit_segment(segment).flags |= VX_SEGMENT_ANSWERS
        return 0

    def remove_neighbours(self, vni, address, *, missing_ok: bool = False) -> None:
        """Remove neighbours by `vni`, one or uint32 (n,), and `address`, uint8 (n, 16). Raises ValueError,
        naming the first that is not there.
        """
        cdef const uint8_t[:, ::1] addresses = np.ascontiguousarray(address, np.uint8)
        cdef const uint32_t[::1] vnis = as_rows(vni, addresses.shape[0], np.uint32, "vni")
        cdef int32_t segment
        cdef uint64_t number
        cdef Py_ssize_t i
        with Change(self):
            for i in range(addresses.shape[0]):
                segment = self._segment_of(vnis[i])
                number = 0
                if segment != NONE:
                    number = self._slot(VX_ASKED, vx_neighbour_place(self.t, segment, &addresses[i, 0]))
                if number:
                    self._drop_neighbour(<uint32_t>number - 1)
                elif not missing_ok:
                    raise ValueError(f"VNI {vnis[i]}, {address_text(bytes(addresses[i]))}: no such neighbour")

    cdef int _drop_neighbour(self, uint32_t number) except -1:
        cdef const vx_neighbour *row = self._neighbour(number)
        self._close_gap(VX_ASKED, vx_neighbour_place(self.t, row.segment, row.address))
        self.n_asked -= 1
        memset(self._edit(VX_NEIGHBOURS, number), 0, sizeof(vx_neighbour))
        self._free_neighbours.append(number)
        return 0

    def _drop_neighbours(self, segments: set[int]) -> None:
        cdef uint32_t i
        for i in range(self.n_neighbours if segments else 0):
            if self._neighbour(i).mac and self._neighbour(i).segment in segments:
                self._drop_neighbour(i)

    def neighbours(self):
        """The neighbours as a structured array, `NEIGHBOUR_ROW`, by number."""
        cdef uint32_t i
        cdef const vx_neighbour *row
        rows = []
        with Change(self):
            for i in range(self.n_neighbours):
                row = self._neighbour(i)
                if row.mac:
                    rows.append((self._segment(row.segment).vni, list(row.address[:ADDRESS_LEN]),
                                 row.mac & MAC_BITS, row.mac & VX_NEIGHBOUR_ROUTER != 0))
        return np.array(rows, NEIGHBOUR_ROW)

    # -- the forwarding table ------------------------------------------------------------------

    def add_static(self, vni: int, mac: int, remote: int) -> None:
        """Add or replace one static FDB entry; it never ages and learning cannot change it.

        Raises ValueError when its part of the table is full.
        """
        self.fdb_replace(vni, mac, remote)

    def fdb_add(self, vni, mac, remote, *, kind: str = "static", sequence=0, replaced=None) -> int:
        """As `fdb_replace`, but raise ValueError, naming it, where an entry that was set stands already."""
        return self._fdb_set(vni, mac, remote, kind, sequence, True, replaced)

    def fdb_replace(self, vni, mac, remote, *, kind: str = "static", sequence=0, replaced=None) -> int:
        """Set entries, in the place of what is there: `vni` and `remote` one or uint32 (n,), `mac` one,
        uint64 (n,) or uint8 (n, 6); a `remote` of `PORT` | p is overlay port p. Return how many were applied.

        `kind` "static" replaces everything. "control" and "sticky" (RFC 7432 sections 15 and 15.2) leave
        static entries alone and are held against each other by `sequence`, one or uint32 (n,); a sticky
        one gives way to sticky ones only. All apply, but those outranked, or none: raises ValueError,
        naming the first that is wrong, and TableFullError. `replaced`, uint64 (n,), is filled with what
        each entry said before: 0 nothing, 1 it stays as it is; `set_targets` reads the others.
        """
        return self._fdb_set(vni, mac, remote, kind, sequence, False, replaced)

    def fdb_delete(self, vni, mac, *, missing_ok: bool = False, replaced=None) -> int:
        """Delete entries of any kind, all or none; return how many there were. Raises ValueError, naming
        it, when one is not there and `missing_ok` is false. `replaced` is as of `fdb_replace`.
        """
        macs = as_macs(mac)
        vnis = as_rows(vni, len(macs), np.uint32, "vni")
        old = np.empty(len(macs), np.uint64) if replaced is None else replaced
        check_macs(vnis, macs)
        with Change(self):
            self._undo.append((vnis, macs, old))
            at = self._unset_rows(vnis, macs, missing_ok, old)
            if at < <uint64_t>len(macs):
                old[at:] = KEPT
                raise ValueError(f"VNI {vnis[at]}, {mac_text(macs[at])}: there is no such entry")
        return int(np.count_nonzero(old))

    def fdb_are_static(self, const uint32_t[::1] vni, const uint64_t[::1] mac):
        """Of which addresses there is a static entry, as bool (n,)."""
        cdef Py_ssize_t i
        cdef vx_where w
        cdef uint64_t value
        found = np.zeros(mac.shape[0], bool)
        cdef uint8_t[::1] are = found.view(np.uint8)
        for i in range(mac.shape[0]):
            w = vx_fdb_where(&self.t.fdb, vni[i], mac[i])
            are[i] = vx_seek(&self.t.fdb, &w, &value) != NULL and vx_kind_of(value) == VX_STATIC
        return found

    def _fdb_set(self, vni, mac, remote, kind: str, sequence, only_new: bool, replaced) -> int:
        macs = as_macs(mac)
        vnis = as_rows(vni, len(macs), np.uint32, "vni")
        targets = as_rows(remote, len(macs), np.uint32, "remote")
        more = as_rows(sequence, len(macs), np.uint32, "sequence")
        if kind not in _SETTABLE:
            raise ValueError(f"kind {kind!r}: one of {', '.join(_SETTABLE)} is right")
        if kind == "static" and more.any():
            raise ValueError("a static entry has no sequence number")
        old = np.empty(len(macs), np.uint64) if replaced is None else replaced
        with Change(self):
            self._check_rows(vnis, macs, targets)
            self._undo.append((vnis, macs, old))
            at = self._set_rows(vnis, macs, targets, more, _SETTABLE[kind], only_new, old)
            if at < <uint64_t>len(macs):
                full = old[at] == VX_SET_FULL
                old[at:] = KEPT
                self._refuse_row(vnis[at], macs[at], full)
        return int(np.count_nonzero(old != KEPT))

    def _refuse_row(self, vni: int, mac: int, full: bool) -> None:
        if not full:
            raise ValueError(f"VNI {vni}, {mac_text(mac)}: there is an entry already; replace it")
        raise TableFullError(f"no room in the forwarding table for {int(mac):012x} in VNI {vni}")

    def _check_rows(self, vnis, macs, targets) -> None:
        cdef uint64_t n = len(macs)
        check_macs(vnis, macs)
        at = self._first_unknown(vnis)
        if at < n:
            raise ValueError(f"VNI {vnis[at]}, {mac_text(macs[at])}: there is no segment of this VNI")
        at = self._first_absent(targets)
        if at < n:
            raise ValueError(f"VNI {vnis[at]}, {mac_text(macs[at])}: there is no {target_text(targets[at])}")

    cdef uint64_t _first_unknown(self, const uint32_t[::1] vni) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(vni.shape[0]):
            if self._segment_of(vni[i]) == NONE:
                return i
        return vni.shape[0]

    cdef uint64_t _first_absent(self, const uint32_t[::1] target) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(target.shape[0]):
            if target[i] >= VX_TARGET_PORT:
                if target[i] - VX_TARGET_PORT >= VX_MAX_PORTS:
                    return i
            elif target[i] >= self.n_remotes or self._remote(target[i]).family == 0:
                return i
        return target.shape[0]

    cdef uint64_t _set_rows(self, const uint32_t[::1] vni, const uint64_t[::1] mac,
                            const uint32_t[::1] target, const uint32_t[::1] more, int kind, bint only_new,
                            uint64_t[::1] old) noexcept nogil:
        """The row that failed, with its reason in `old`, or their number."""
        cdef Py_ssize_t i
        cdef vx_where w
        cdef uint64_t value
        cdef int done
        for i in range(mac.shape[0]):
            w = vx_fdb_where(&self.t.fdb, vni[i], mac[i])
            if only_new and vx_seek(&self.t.fdb, &w, &old[i]) != NULL and vx_is_set(vx_kind_of(old[i])):
                old[i] = VX_SET_KEPT
                return i
            value = vx_value(vni[i], target[i], kind, more[i])
            done = vx_fdb_set(self.t, &w, value, False, &old[i])
            if done == VX_SET_FULL:
                self._let_lanes_pass()
                done = vx_fdb_set(self.t, &w, value, False, &old[i])
            if done == VX_SET_FULL:
                old[i] = VX_SET_FULL
                return i
            if done == VX_SET_KEPT:
                old[i] = KEPT
        return mac.shape[0]

    cdef uint64_t _unset_rows(self, const uint32_t[::1] vni, const uint64_t[::1] mac, bint missing_ok,
                              uint64_t[::1] old) noexcept nogil:
        """The row that has no entry, or their number."""
        cdef Py_ssize_t i
        cdef vx_where w
        for i in range(mac.shape[0]):
            w = vx_fdb_where(&self.t.fdb, vni[i], mac[i])
            old[i] = vx_fdb_unset(self.t, &w)
            if old[i] == 0 and not missing_ok:
                return i
        return mac.shape[0]

    def _restore(self, const uint32_t[::1] vni, const uint64_t[::1] mac, const uint64_t[::1] old) -> None:
        """Undo rows of `_set_rows` or `_unset_rows`, the last first."""
        cdef Py_ssize_t i
        cdef vx_where w
        cdef uint64_t now
        with nogil:
            for i in range(mac.shape[0] - 1, -1, -1):
                w = vx_fdb_where(&self.t.fdb, vni[i], mac[i])
                if old[i] == 0:
                    vx_fdb_unset(self.t, &w)
                elif old[i] > KEPT:
                    vx_fdb_set(self.t, &w, old[i], True, &now)

    def flush(self, *, vni=(), remote=(), port=()) -> None:
        """Void at once what was learned in these VNIs, to these remotes and to these overlay ports (one or
        uint32 (n,) of each). The entries go when lanes sweep; static and control-plane entries stay.
        """
        cdef uint32_t number
        cdef uint32_t[::1] vnis = as_words(vni, np.uint32, "vni")
        cdef uint32_t[::1] remotes = as_words(remote, np.uint32, "remote")
        cdef uint32_t[::1] ports = as_words(port, np.uint32, "port")
        with Change(self):
            for number in remotes:
                self._require_remote(number)
                self._edit_remote(number).flushed = self._next_generation()
            for number in vnis:
                if self._segment_of(number) == NONE:
                    raise ValueError(f"there is no segment of VNI {number}")
                self._edit_segment(self._segment_of(number)).flushed = self._next_generation()
            self._flush_vnis(np.asarray(vnis))
            for number in ports:
                if number >= VX_MAX_PORTS:
                    raise ValueError(f"overlay port {number}: at most {VX_MAX_PORTS - 1}")
                self._set_word(VX_PORTS, number, self._next_generation())

    def sweep(self, now_s: int) -> None:
        """Forget all that has aged or was flushed, in this thread; lanes do the same bit by bit.

        `now_s` is the time of the lanes, of the monotonic clock.
        """
        cdef uint32_t now = now_s
        with Change(self), nogil:
            vx_fdb_sweep_all(&self.t.seats[0], now)

    # -- reading -------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Which generation learned entries have now; a flush begins a new one."""
        return self.t.generation

    def vni_of(self, segment: int) -> int:
        """The VNI of a segment. Raises ValueError when there is no such segment."""
        self._require_segment(segment)
        return self._segment(segment).vni

    def segments(self):
        """The segments as a structured array, in the order of their numbers."""
        cdef const Segment *s
        cdef uint32_t i
        with Change(self):
            rows = np.zeros(self.n_segments, SEGMENT_ROW)
            for i in range(self.n_segments):
                s = self._segment(i)
                rows[i] = (i, s.vni, s.port, s.n_flood, s.ageing_s, s.max_learned, self._n_learned(s.vni),
                           s.flags & VX_SEGMENT_LEARNS, s.flags & VX_SEGMENT_ANY_SOURCE,
                           vx_be16(s.dstport_be))
            return np.delete(rows, self._unused(self.n_segments, False))

    def segment_numbers(self):
        """Number, VNI and how many entries were learned, of each segment: uint32 (n, 3), by number."""
        cdef const Segment *s
        cdef uint32_t[:, ::1] rows
        cdef uint32_t i
        cdef Py_ssize_t n = 0
        with Change(self):
            found = np.empty((self.n_segments, 3), np.uint32)
            rows = found
            for i in range(self.n_segments):
                s = self._segment(i)
                if s.flags:
                    rows[n, 0], rows[n, 1], rows[n, 2] = i, s.vni, self._n_learned(s.vni)
                    n += 1
            return found[:n]

    cdef uint32_t _n_learned(self, uint32_t vni) noexcept nogil:
        return <uint32_t>vx_get(&self.t.fdb.states[vni].learned)

    def flood(self, segment: int):
        """The flood set of a segment as uint32 (n,), ascending."""
        cdef const Segment *s
        cdef uint32_t k
        with Change(self):
            self._require_segment(segment)
            s = self._segment(segment)
            return np.array([vx_flood(s)[k] for k in range(s.n_flood)], np.uint32)

    def remotes(self):
        """The remotes as a structured array, in the order of their numbers."""
        cdef const Remote *remote
        cdef uint32_t i
        with Change(self):
            rows = np.zeros(self.n_remotes, REMOTE_ROW)
            for i in range(self.n_remotes):
                remote = self._remote(i)
                rows[i] = (i, remote.family, list(remote.address[:ADDRESS_LEN]),
                           list(remote.name[:VX_NAME_LEN]), remote.flags & VX_REMOTE_LISTED,
                           remote.flags & VX_REMOTE_SPOKE)
            return np.delete(rows, self._unused(self.n_remotes, True))

    def fdb(self, now_s: int = 0):
        """The FDB as a structured array, in no order: vni, mac, kind (`KINDS`), remote or port (the other
        is -1), the sequence number of a control-plane entry, the second in which a learned one was seen.
        What was flushed, or has aged at `now_s` (of the lanes' clock; 0: none), is left out.
        """
        cdef uint64_t n = 0
        with Change(self):
            rows = np.zeros(vx_get(&self.t.n_entries) + <uint64_t>SLACK, FDB_ROW)
            n = self._fill_rows(rows.view(np.uint8), len(rows), now_s)
        return rows[:n]

    cdef uint64_t _fill_rows(self, uint8_t[::1] memory, uint64_t room, uint32_t now_s) noexcept nogil:
        cdef Row *rows = <Row *>&memory[0]
        cdef vx_entry *entry
        cdef uint64_t i, key, value, n = 0
        for i in range(self.t.fdb.n_buckets * VX_WAYS):
            entry = &self.t.fdb.entries[i]
            key, value = vx_get(&entry.key), vx_get(&entry.value)
            if n < room and vx_is_live(vx_kind_of(value)) and vx_is_station(key >> 16):
                n += fill_row(&self.t.seats[0], &rows[n], key, value, now_s)
        return n

    def fdb_rows(self) -> list[tuple[int, int, int, bool]]:
        """The entries as (vni, mac, remote, static), in no order."""
        rows = self.fdb()
        columns = (rows[name].tolist() for name in ("vni", "mac", "remote"))
        return list(zip(*columns, (rows["kind"] >= VX_STATIC).tolist(), strict=True))

    def fdb_counters(self) -> dict[str, int]:
        """Entries now, those not yet swept among them; since the start: learned, moved, frozen after too
        many moves and then held where they were, moves refused to set entries, learning refused for want
        of room (overflow), aged, and forgotten after a flush.
        """
        counts = dict.fromkeys(_COUNTERS, 0)
        for i in range(<int>VX_MAX_SEATS):
            add_counters(&self.t.seats[i].counters, counts)
        return {"entries": vx_get(&self.t.n_entries), **counts}


cdef struct Row:
    uint32_t vni
    uint8_t kind
    uint64_t mac
    int32_t remote, port
    uint32_t sequence, seen_s


cdef uint64_t fill_row(Seat *seat, Row *row, uint64_t key, uint64_t value, uint32_t now_s) noexcept nogil:
    """Whether the entry counts; then it is in the row."""
    cdef uint32_t vni = vx_entry_vni(key, value), target = vx_target_of(value)
    cdef int32_t segment = vx_find_segment(seat, vni)
    if segment == NONE or vx_is_flushed(seat.view, vx_segment_at(seat, segment), value):
        return 0
    if now_s and vx_is_aged(vx_segment_at(seat, segment), value, now_s):
        return 0
    row.vni, row.kind, row.mac = vni, <uint8_t>vx_kind_of(value), key >> 16
    row.remote = NONE if target & VX_TARGET_PORT else <int32_t>target
    row.port = <int32_t>(target & ~VX_TARGET_PORT) if target & VX_TARGET_PORT else NONE
    row.sequence = vx_more_of(value) if vx_is_set(vx_kind_of(value)) else 0
    row.seen_s = 0 if vx_is_set(vx_kind_of(value)) else vx_more_of(value) >> 12
    return 1


cdef int add_counters(const vx_fdb_counters *counters, dict counts) except -1:
    cdef const uint64_t *word = <const uint64_t *>counters
    for i, name in enumerate(_COUNTERS):
        counts[name] += vx_get_relaxed(&word[<int>i])
    return 0


cdef class Reader:
    """One lane's place at the tables, or a test's: of one thread at a time.

    ``enter`` takes the newest view and says that the last batch is done; what is looked up afterwards
    stays as it was until the next ``enter``. ``leave`` before sleeping. `ring` is where it tells what it
    learns and forgets. Raises ValueError when all places are taken.
    """

    def __cinit__(self, Tables tables not None, Ring ring = None):
        self.tables, self.ring = tables, ring
        self.seat = tables.take_seat()
        self.seat.ring = ring.ring if ring is not None else NULL

    def __dealloc__(self):
        if self.seat != NULL:
            vx_leave(self.seat)
            self.seat.ring = NULL
            self.seat.taken = False

    def enter(self) -> None:
        """Before each batch."""
        vx_enter(self.seat)

    def leave(self) -> None:
        """Before sleeping."""
        vx_leave(self.seat)
        if self.seat.ring:
            vx_wake_reader(self.seat.ring)

    cdef const Segment *_entered(self, segment) except NULL:
        if self.seat.epoch == VX_AWAY or not 0 <= segment < self.tables.max_segments:
            raise ValueError(f"segment {segment} of {self.tables.max_segments}, or not entered")
        return vx_segment_at(self.seat, segment)

    def find_segment(self, vni: int) -> int:
        """The segment of a VNI, or -1."""
        self._entered(0)
        return vx_find_segment(self.seat, vni)

    def find_remote(self, address: bytes) -> int:
        """The remote of a 16-byte address, or -1."""
        cdef const uint8_t *raw = address
        self._entered(0)
        if len(address) != ADDRESS_LEN:
            raise ValueError(f"{len(address)} address bytes")
        return vx_find_remote(self.seat, raw)

    def find_neighbour(self, segment: int, address: bytes) -> tuple[int, bool] | None:
        """The MAC that a 16-byte address has in a segment, and whether it is a router's."""
        cdef const uint8_t *raw = address
        cdef uint64_t mac
        self._entered(segment)
        mac = vx_find_neighbour(self.seat, segment, raw)
        return (mac & MAC_BITS, bool(mac & VX_NEIGHBOUR_ROUTER)) if mac else None

    def is_peer(self, segment: int, remote: int) -> bool:
        """Whether the segment takes packets from the remote."""
        self._entered(segment)
        return vx_is_peer(self.seat, segment, remote)

    def may_speak(self, segment: int, remote: int) -> bool:
        """Whether the segment is on the remote's list, if it has one."""
        self._entered(segment)
        return vx_may_speak(self.seat, segment, remote)

    def is_welcome(self, segment: int, address: bytes) -> bool:
        """Whether the segment takes packets from an address, be it a remote or not."""
        cdef const uint8_t *raw = address
        self._entered(segment)
        if len(address) != ADDRESS_LEN:
            raise ValueError(f"{len(address)} address bytes")
        return vx_is_welcome(self.seat, segment, raw)

    def flood(self, segment: int) -> list[int]:
        """The members of its flood set."""
        cdef const Segment *s = self._entered(segment)
        cdef uint32_t k
        return [vx_flood(s)[k] for k in range(s.n_flood)]

    def remote(self, remote: int) -> bytes:
        """The address of a remote; zeros for one that is not there."""
        self._entered(0)
        return bytes(vx_remote_at(self.seat, remote % VX_MAX_REMOTES).address[:ADDRESS_LEN])

    def fdb_find(self, segment: int, macs, now_s: int, out=None):
        """The targets of addresses as int32 (n,), -1 for unknown; into `out` when given. Releases the GIL."""
        cdef const uint64_t[::1] keys = as_macs(macs)
        cdef int32_t[::1] found = np.empty(len(keys), np.int32) if out is None else out
        cdef const Segment *s = self._entered(segment)
        cdef uint32_t i, n = len(keys), now = now_s
        if found.shape[0] < keys.shape[0]:
            raise ValueError(f"out: {found.shape[0]} rows, not {keys.shape[0]}")
        with nogil:
            for i from 0 <= i < n by LANE_BATCH:
                vx_fdb_find_batch(self.seat, s, &keys[i], min(<uint32_t>LANE_BATCH, n - i), &found[i], now)
        return np.asarray(found)

    def fdb_learn(self, segment: int, macs, targets, now_s) -> None:
        """Learn that frames came from these addresses at these targets, at that time; both one or (n,).
        Releases the GIL.
        """
        cdef const uint64_t[::1] keys = as_macs(macs)
        cdef const uint32_t[::1] places = as_rows(targets, len(keys), np.uint32, "target")
        cdef const uint32_t[::1] now = as_rows(now_s, len(keys), np.uint32, "now_s")
        cdef const Segment *s = self._entered(segment)
        cdef Py_ssize_t i
        with nogil:
            for i in range(keys.shape[0]):
                vx_fdb_learn(self.seat, s, keys[i], places[i], now[i])

    def fdb_notice(self, segment: int, mac: int, target: int, now_s: int) -> str:
        """Notice that a frame to more than one host came from an address at an overlay port (`PORT` | number)
        whose addresses are not kept; what that says of it, one of SEEN.
        """
        return SEEN[vx_fdb_notice(self.seat, self._entered(segment), mac, target, now_s)]

    def fdb_sweep(self, n_buckets: int, now_s: int) -> None:
        """Forget what has aged or was flushed in the next buckets. Releases the GIL."""
        cdef uint32_t n = n_buckets, now = now_s
        self._entered(0)
        with nogil:
            vx_fdb_sweep(self.seat, n, now)
