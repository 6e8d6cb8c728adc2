"""Suppress: ARP requests (RFC 826) and neighbour solicitations (RFC 4861) answered where they enter.

Place in the house: above flow, below the lane, which knows who has which address. What is not plainly a
request from one host goes on as any other broadcast: gratuitous ARP, announcements and answers are news
for all (RFC 5227 section 1.1), and so is what is damaged or strange.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from vxcore._fast.c_bytes cimport (
    vx_be32,
    vx_load16,
    vx_load32_raw,
    vx_load48,
    vx_store16,
    vx_store16_raw,
    vx_store32,
)
from vxcore._fast.c_csum cimport vx_csum_add, vx_csum_fold
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport MAX_TAGS, is_tag

cdef enum:
    ETHERTYPE_ARP = 0x0806
    ETHERTYPE_IPV6 = 0x86DD
    ETHERTYPE_IPV4 = 0x0800
    ARP_LEN = 28                  # over Ethernet, for IPv4 (RFC 826)
    ARP_ETHERNET = 1
    ARP_REQUEST = 1
    ARP_REPLY = 2
    PROTO_ICMP6 = 58
    SOLICITATION = 135            # RFC 4861 section 4.3
    ADVERTISEMENT = 136           # section 4.4
    SOLICITATION_LEN = 24         # without options
    ADVERTISEMENT_LEN = 32        # with the option of the target's link address
    SOURCE_LINK = 1               # options, section 4.6.1
    TARGET_LINK = 2
    ND_HOP_LIMIT = 255            # section 7.1.1: not from beyond this link
    IS_ROUTER = 0x80
    IS_SOLICITED = 0x40
    OVERRIDE = 0x20

cdef uint8_t ALL_NODES[16]        # ff02::1
memset(ALL_NODES, 0, 16)
ALL_NODES[0], ALL_NODES[1], ALL_NODES[15] = 0xFF, 0x02, 0x01


cdef bint read_question(const uint8_t *frame, uint32_t length, Question *q) noexcept nogil:
    """Whether the frame, of at least 14 bytes, asks for the link address of `q.target`."""
    cdef uint32_t at = VX_ETH_LEN, _i
    cdef uint16_t ethertype = vx_load16(frame + 12)
    q.kind = ASK_NOTHING
    for _i in range(<uint32_t>MAX_TAGS):
        if not is_tag(ethertype) or length < at + VX_TAG_LEN:
            break
        ethertype = vx_load16(frame + at + 2)
        at += VX_TAG_LEN
    q.l3_off, q.asker = at, vx_load48(frame + 6)
    if q.asker == 0 or frame[6] & 1:
        return False
    if ethertype == ETHERTYPE_ARP:
        read_arp(frame + at, length - at, q)
    elif ethertype == ETHERTYPE_IPV6:
        read_solicitation(frame + at, length - at, q)
    return q.kind != ASK_NOTHING


cdef void read_arp(const uint8_t *arp, uint32_t length, Question *q) noexcept nogil:
    if (length < ARP_LEN or vx_load16(arp) != ARP_ETHERNET or vx_load16(arp + 2) != ETHERTYPE_IPV4
            or arp[4] != 6 or arp[5] != 4 or vx_load16(arp + 6) != ARP_REQUEST
            or vx_load48(arp + 8) != q.asker
            or vx_load32_raw(arp + 14) == vx_load32_raw(arp + 24)):  # who says its own address announces it
        return
    memset(q.target, 0, 10)
    q.target[10] = q.target[11] = 0xFF
    memcpy(q.target + 12, arp + 24, 4)
    q.probe = vx_load32_raw(arp + 14) == 0
    q.kind = ASK_ARP


cdef void read_solicitation(const uint8_t *ip, uint32_t length, Question *q) noexcept nogil:
    """As RFC 4861 section 7.1.1 demands of whoever receives one."""
    cdef uint32_t payload_len
    cdef const uint8_t *icmp = ip + VX_IPV6_LEN
    if length < VX_IPV6_LEN + SOLICITATION_LEN or ip[0] >> 4 != 6 or ip[6] != PROTO_ICMP6:
        return
    payload_len = vx_load16(ip + 4)
    if (ip[7] != ND_HOP_LIMIT or payload_len < SOLICITATION_LEN or payload_len > length - VX_IPV6_LEN
            or icmp[0] != SOLICITATION or icmp[1] != 0 or icmp[8] == 0xFF
            or vx_csum_fold(icmp6_sum(ip, payload_len)) != 0xFFFF):
        return
    q.probe = is_unspecified(ip + 8)
    if ip[8] == 0xFF or not options_hold(icmp + SOLICITATION_LEN, payload_len - SOLICITATION_LEN, q):
        return
    if q.probe and not is_solicited_node(ip + 24, icmp + 8):
        return
    memcpy(q.target, icmp + 8, 16)
    q.kind = ASK_SOLICITATION


cdef bint options_hold(const uint8_t *options, uint32_t length, const Question *q) noexcept nogil:
    """None of no length; the asker's link address is that of the frame, and not there in a probe."""
    cdef uint32_t at = 0, n
    while at + 8 <= length:
        n = 8 * <uint32_t>options[at + 1]
        if n == 0 or n > length - at:
            return False
        if options[at] == SOURCE_LINK and (q.probe or vx_load48(options + at + 2) != q.asker):
            return False
        at += n
    return at == length


cdef inline uint64_t icmp6_sum(const uint8_t *ip, uint32_t length) noexcept nogil:
    cdef uint64_t sum = vx_csum_add(ip + 8, 32, vx_be32(length) + <uint64_t>vx_be32(PROTO_ICMP6))
    return vx_csum_add(ip + VX_IPV6_LEN, length, sum)


cdef inline bint is_unspecified(const uint8_t *address) noexcept nogil:
    cdef uint32_t i
    for i in range(16):
        if address[i]:
            return False
    return True


cdef inline bint is_solicited_node(const uint8_t *group, const uint8_t *target) noexcept nogil:
    """Whether this is ff02::1:ff00:0/104 with the last three bytes of the target (RFC 4291 section 2.7.1)."""
    cdef uint8_t wanted[16]
    memset(wanted, 0, 16)
    wanted[0], wanted[1], wanted[11], wanted[12] = 0xFF, 0x02, 0x01, 0xFF
    memcpy(wanted + 13, target + 13, 3)
    return memcmp(wanted, group, 16) == 0


cdef uint32_t write_reply(uint8_t *out, const uint8_t *frame, const Question *q, uint64_t mac,
                          bint router) noexcept nogil:
    """Write the answer, with the tags of the question, in the name of who has the MAC; return its length.

    `out` has room for MAX_REPLY_LEN bytes. A probe is answered too: the address is taken.
    """
    cdef uint8_t *l3 = out + q.l3_off
    memcpy(out, frame, q.l3_off)
    memcpy(out, frame + 6, 6)
    store48(out + 6, mac)
    if q.kind == ASK_ARP:
        return q.l3_off + write_arp(l3, frame + q.l3_off, mac)
    if q.probe:  # who has no address is reached with all others (section 7.2.4)
        vx_store16(out, 0x3333)
        vx_store32(out + 2, 1)
    return q.l3_off + write_advertisement(l3, frame + q.l3_off, q, mac, router)


cdef inline void store48(uint8_t *out, uint64_t mac) noexcept nogil:
    vx_store16(out, <uint16_t>(mac >> 32))
    vx_store32(out + 2, <uint32_t>mac)


cdef uint32_t write_arp(uint8_t *out, const uint8_t *request, uint64_t mac) noexcept nogil:
    memcpy(out, request, 6)
    vx_store16(out + 6, ARP_REPLY)
    store48(out + 8, mac)
    memcpy(out + 14, request + 24, 4)
    memcpy(out + 18, request + 8, 10)
    return ARP_LEN


cdef uint32_t write_advertisement(uint8_t *out, const uint8_t *request, const Question *q, uint64_t mac,
                                  bint router) noexcept nogil:
    cdef uint8_t *icmp = out + VX_IPV6_LEN
    memset(out, 0, VX_IPV6_LEN + ADVERTISEMENT_LEN)
    out[0], out[6], out[7] = 0x60, PROTO_ICMP6, ND_HOP_LIMIT
    vx_store16(out + 4, ADVERTISEMENT_LEN)
    memcpy(out + 8, q.target, 16)
    memcpy(out + 24, <const uint8_t *>ALL_NODES if q.probe else request + 8, 16)
    icmp[0] = ADVERTISEMENT
    icmp[4] = OVERRIDE | (0 if q.probe else IS_SOLICITED) | (IS_ROUTER if router else 0)
    memcpy(icmp + 8, q.target, 16)
    icmp[24], icmp[25] = TARGET_LINK, 1
    store48(icmp + 26, mac)
    vx_store16_raw(icmp + 2, ~vx_csum_fold(icmp6_sum(out, ADVERTISEMENT_LEN)))
    return VX_IPV6_LEN + ADVERTISEMENT_LEN


# -- for tests ----------------------------------------------------------------------------------------


def asked(frame) -> tuple[bytes, bool] | None:
    """The 16 bytes of the address that a frame asks for, and whether it is a probe; None: it asks nothing.

    `frame` is bytes of an Ethernet frame of at least 14 bytes.
    """
    cdef const uint8_t[::1] view = frame
    cdef Question q
    if not read_question(&view[0], <uint32_t>len(frame), &q):
        return None
    return q.target[:16], bool(q.probe)


def reply_to(frame, mac: int, router: bool = False) -> bytes:
    """The answer to a frame that asks, in the name of `mac`; empty where it asks nothing."""
    cdef const uint8_t[::1] view = frame
    cdef Question q
    cdef uint8_t out[94]
    if not read_question(&view[0], <uint32_t>len(frame), &q):
        return b""
    return out[: write_reply(out, &view[0], &q, mac, router)]
