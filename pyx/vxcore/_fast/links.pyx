"""What stands in front of IP in a captured packet: its link layer, and GENEVE.

Place in the house: above batch, beside pcap, whose packets start with whatever the capture's link
type says. ``find_ip`` moves each packet's start to its IP header, from where codec decapsulates;
``strip_geneve`` passes over a GENEVE tunnel (RFC 8926) that holds the VXLAN packet. Neither writes to
a packet, so that one that turns out to be something else can be put back by its old offset.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxcore._fast.batch cimport PacketBatch, Packets, in_slot
from vxcore._fast.c_bytes cimport vx_load16, vx_load32, vx_swap32
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport *
from vxcore._fast.verdict cimport *

# LINKTYPE_ numbers (draft-ietf-opsawg-pcaplinktype)
cdef enum:
    LINK_NULL = 0            # BSD loopback: the address family in the machine's byte order
    LINK_ETHERNET = 1
    LINK_RAW_BSD = 12        # LINK_RAW under the numbers that some systems give it
    LINK_RAW_OPENBSD = 14
    LINK_RAW = 101
    LINK_LOOP = 108          # OpenBSD loopback: the family in network order
    LINK_SLL = 113           # Linux cooked capture, `tcpdump -i any`
    LINK_IPV4 = 228
    LINK_IPV6 = 229
    LINK_SLL2 = 276          # the same with the interface's number

cdef enum:
    FAMILY_LEN = 4
    SLL_LEN = 16
    SLL2_LEN = 20
    GENEVE_LEN = 8           # RFC 8926 section 3.4, without options
    GENEVE_PORT = 6081
    GENEVE_ETHERNET = 0x6558

SUPPORTED_LINKS = {
    LINK_NULL: "BSD loopback", LINK_ETHERNET: "Ethernet", LINK_RAW_BSD: "raw IP", LINK_RAW_OPENBSD: "raw IP",
    LINK_RAW: "raw IP", LINK_LOOP: "OpenBSD loopback", LINK_SLL: "Linux cooked", LINK_IPV4: "raw IPv4",
    LINK_IPV6: "raw IPv6", LINK_SLL2: "Linux cooked v2",
}


def find_ip(PacketBatch batch not None, link=None) -> int:
    """Move the start of every packet to its IP header; return how many have one.

    `link`, a uint16 array of shape (n,), says what each packet starts with (LINKTYPE_ number);
    default: Ethernet. Others get the verdict LINK_TYPE, NOT_IP, BAD_IP_HEADER or TRUNCATED and stay
    where they are. Packets whose verdict is not DELIVERED already are passed over.

    Raises ValueError when `link` is of another shape.
    """
    cdef const uint16_t[::1] links
    cdef const uint16_t *link_of = NULL
    cdef uint32_t found
    if link is not None:
        if len(link) != batch.p.n:
            raise ValueError(f"link has {len(link)} elements, the batch {batch.p.n} packets")
        links = link
        if batch.p.n:
            link_of = &links[0]
    with nogil:
        found = find_all(&batch.p, link_of)
    return found


cdef uint32_t find_all(const Packets *p, const uint16_t *link_of) noexcept nogil:
    cdef uint32_t i, offset, length, at, found = 0
    cdef Verdict verdict
    for i in range(p.n):
        if p.verdict[i] != DELIVERED:
            continue
        offset, length, at = p.offset[i], p.length[i], 0
        verdict = BAD_SLOT
        if in_slot(p, i, offset, length):
            verdict = walk_link(p.mem + offset, length, link_of[i] if link_of else LINK_ETHERNET, &at)
        p.verdict[i] = verdict
        if verdict == DELIVERED:
            p.offset[i], p.length[i] = offset + at, length - at
            found += 1
    return found


cdef inline Verdict walk_link(const uint8_t *packet, uint32_t length, uint16_t link,
                              uint32_t *at) noexcept nogil:
    """Set `at` to where the IP header starts."""
    if link == LINK_ETHERNET:
        return walk_tags(packet, length, VX_ETH_LEN - 2, VX_ETH_LEN, at)
    if link == LINK_SLL:
        return walk_tags(packet, length, SLL_LEN - 2, SLL_LEN, at)
    if link == LINK_SLL2:
        return walk_tags(packet, length, 0, SLL2_LEN, at)
    if link == LINK_NULL or link == LINK_LOOP:
        return walk_family(packet, length, at)
    if link == LINK_RAW or link == LINK_RAW_BSD or link == LINK_RAW_OPENBSD:
        return check_version(packet, length, 0)
    if link == LINK_IPV4 or link == LINK_IPV6:
        return check_version(packet, length, 4 if link == LINK_IPV4 else 6)
    return LINK_TYPE


cdef inline Verdict check_version(const uint8_t *ip, uint32_t length, uint8_t version) noexcept nogil:
    """Whether an IP header starts here, of `version` unless that is 0."""
    cdef uint8_t found
    if length == 0:
        return TRUNCATED
    found = ip[0] >> 4
    if found != 4 and found != 6:
        return NOT_IP if version == 0 else BAD_IP_HEADER
    return DELIVERED if version == 0 or version == found else BAD_IP_HEADER


cdef inline Verdict walk_tags(const uint8_t *packet, uint32_t length, uint32_t type_off,
                              uint32_t header_len, uint32_t *at) noexcept nogil:
    """A link header with an EtherType, behind which tags may follow."""
    cdef uint32_t end = header_len
    cdef uint16_t ethertype
    cdef int _tag
    if length < header_len:
        return TRUNCATED
    ethertype = vx_load16(packet + type_off)
    for _tag in range(MAX_TAGS):
        if not is_tag(ethertype):
            break
        if length - end < VX_TAG_LEN:
            return TRUNCATED
        end += VX_TAG_LEN
        ethertype = vx_load16(packet + end - 2)
    at[0] = end
    if ethertype == ETHERTYPE_IPV4:
        return check_version(packet + end, length - end, 4)
    if ethertype == ETHERTYPE_IPV6:
        return check_version(packet + end, length - end, 6)
    return NOT_IP


cdef inline Verdict walk_family(const uint8_t *packet, uint32_t length, uint32_t *at) noexcept nogil:
    """BSD's loopback header: an address family, of a machine of either byte order."""
    cdef uint32_t family
    if length < FAMILY_LEN:
        return TRUNCATED
    family = vx_load32(packet)
    if family > 0xFFFF:
        family = vx_swap32(family)
    at[0] = FAMILY_LEN
    if family == 2:
        return check_version(packet + FAMILY_LEN, length - FAMILY_LEN, 4)
    # AF_INET6 on Linux, NetBSD and OpenBSD, FreeBSD, macOS
    if family == 10 or family == 24 or family == 28 or family == 30:
        return check_version(packet + FAMILY_LEN, length - FAMILY_LEN, 6)
    return NOT_IP


# -- GENEVE --------------------------------------------------------------------------------------


def strip_geneve(PacketBatch batch not None) -> int:
    """Move the start of packets that are GENEVE (UDP port 6081) to the IP header inside; return how many.

    Takes packets that start at their IP header. Those that are no GENEVE, or whose payload is neither
    IP nor Ethernet with IP in it, stay where they are, with their verdict. Options are passed over,
    critical ones too: they concern a tunnel's endpoint, which a capture is not.
    """
    cdef uint32_t found
    with nogil:
        found = strip_all(&batch.p)
    return found


cdef uint32_t strip_all(const Packets *p) noexcept nogil:
    cdef uint32_t i, offset, length, at, found = 0
    for i in range(p.n):
        offset, length = p.offset[i], p.length[i]
        if p.verdict[i] != DELIVERED or not in_slot(p, i, offset, length):
            continue
        at = geneve_payload(p.mem + offset, length)
        if at:
            p.offset[i], p.length[i] = offset + at, length - at
            found += 1
    return found


cdef inline uint32_t geneve_payload(const uint8_t *ip, uint32_t length) noexcept nogil:
    """Where the inner IP header starts; 0 when there is none that can be reached."""
    cdef uint32_t at = udp_at(ip, length)
    cdef uint32_t link_len = 0
    cdef Verdict verdict
    cdef uint16_t protocol
    if at == 0 or vx_load16(ip + at + 2) != GENEVE_PORT or length - at < VX_UDP_LEN + GENEVE_LEN:
        return 0
    at += VX_UDP_LEN
    if ip[at] >> 6:
        return 0  # a version other than 0
    protocol = vx_load16(ip + at + 2)
    at += GENEVE_LEN + (ip[at] & 63) * 4
    if at > length:
        return 0
    if protocol == GENEVE_ETHERNET:
        verdict = walk_link(ip + at, length - at, LINK_ETHERNET, &link_len)
    elif protocol == ETHERTYPE_IPV4 or protocol == ETHERTYPE_IPV6:
        verdict = check_version(ip + at, length - at, 4 if protocol == ETHERTYPE_IPV4 else 6)
    else:
        verdict = NOT_IP
    return at + link_len if verdict == DELIVERED else 0


cdef inline uint32_t udp_at(const uint8_t *ip, uint32_t length) noexcept nogil:
    """Where the UDP header of an unfragmented IP packet is, if it is whole; 0 if there is none."""
    cdef uint32_t header_len
    if length < VX_IPV4_LEN + VX_UDP_LEN:
        return 0
    if ip[0] >> 4 == 6:
        return VX_IPV6_LEN if ip[6] == PROTO_UDP and length >= VX_IPV6_LEN + VX_UDP_LEN else 0
    header_len = (ip[0] & 15) * 4
    if header_len < VX_IPV4_LEN or ip[9] != PROTO_UDP or vx_load16(ip + 6) & 0x3FFF:
        return 0
    return header_len if length >= header_len + VX_UDP_LEN else 0
