/* What a packet says of itself: who sends to whom.
 *
 * A container's and a service's IPv6 address ends with its IPv4 address, and begins with the node's own 96 bits. So an
 * address of either family is four bytes here, and whether it is one of ours.
 *
 * Nothing here believes a length that the packet claims; every read is checked against what is there. */
#ifndef COPPICE_PACKET_H
#define COPPICE_PACKET_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "settings.h"

#define ETHERNET 14
#define ETH_IPV4 0x0800
#define ETH_IPV6 0x86dd
#define ETH_VLAN 0x8100
#define ETH_VLAN_OUTER 0x88a8

/* MAC addresses of ours are these two bytes and the IPv4 address. */
#define MAC_STEM_0 0x02
#define MAC_STEM_1 0xc0

#define ICMP 1
#define TCP 6
#define UDP 17
#define ICMPV6 58

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct address6 {
	__be32 word[4];
};

/* Sender and receiver. For ICMP echoes both ports are the echo's id; for protocols without ports they are zero. */
struct tuple {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 is_v6;
	__u16 zero;
};

enum fragment { WHOLE, FIRST_FRAGMENT, LATER_FRAGMENT };

struct packet {
	struct tuple tuple;
	/* Where the transport header begins, counted from the frame's begin. */
	__u32 transport;
	/* Whether the ends are of the bridge's subnets, whose addresses are known in both families. */
	__u8 from_ours;
	__u8 to_ours;
	__u8 fragment;
	__u8 tcp_flags;
	/* ICMP: an error about another packet, which begins 8 bytes after `transport`. */
	__u8 is_error;
	/* IPv4 options, or an IPv6 routing header: the sender may have chosen the path. */
	__u8 has_options;
	/* A later fragment whose first is not known. */
	__u8 without_ports;
	__u32 fragment_id;
};

enum parsed { PARSED, NOT_IP, MALFORMED };

struct ipv4_header {
	__u8 version_and_length;
	__u8 service;
	__be16 total;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__sum16 checksum;
	__be32 source;
	__be32 destination;
};

struct ipv6_header {
	__be32 version_and_flow;
	__be16 payload;
	__u8 next;
	__u8 hops;
	struct address6 source;
	struct address6 destination;
};

static __always_inline int is_ours4(__be32 ip)
{
	return (ip & SUBNET_MASK) == SUBNET;
}

static __always_inline int is_ours6(const struct address6 *ip)
{
	return WITH_IPV6 && ip->word[0] == STEM_0 && ip->word[1] == STEM_1 && ip->word[2] == 0 &&
	       is_ours4(ip->word[3]);
}

/* Ports, flags and ids from the transport header at packet->transport. Of a packet that is quoted in an error there
 * may be eight bytes. */
static __always_inline int read_transport(struct __sk_buff *skb, struct packet *packet, int quoted)
{
	struct {
		__be16 source, destination;
		__be32 more;
	} ports;
	struct {
		__u8 type, code;
		__be16 checksum, id, sequence;
	} icmp;

	switch (packet->tuple.protocol) {
	case TCP:
		if (!quoted && bpf_skb_load_bytes(skb, packet->transport + 13, &packet->tcp_flags, 1))
			return MALFORMED;
		/* fallthrough */
	case UDP:
		if (bpf_skb_load_bytes(skb, packet->transport, &ports, sizeof(ports)))
			return MALFORMED;
		packet->tuple.source_port = ports.source;
		packet->tuple.destination_port = ports.destination;
		return PARSED;
	case ICMP:
	case ICMPV6:
		if (bpf_skb_load_bytes(skb, packet->transport, &icmp, sizeof(icmp)))
			return MALFORMED;
		/* Unreachable, time exceeded, parameter problem; v6 has its errors below 128. */
		if (packet->tuple.is_v6 ? icmp.type < 128 : icmp.type == 3 || icmp.type == 11 || icmp.type == 12) {
			packet->is_error = 1;
		} else {
			packet->tuple.source_port = icmp.id;
			packet->tuple.destination_port = icmp.id;
		}
		return PARSED;
	}
	return PARSED;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *packet, __u32 at)
{
	struct ipv4_header ip;
	__u32 length;
	__u16 fragment;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return MALFORMED;
	length = (ip.version_and_length & 0x0f) * 4;
	if ((ip.version_and_length >> 4) != 4 || length < sizeof(ip))
		return MALFORMED;
	packet->tuple.source = ip.source;
	packet->tuple.destination = ip.destination;
	packet->from_ours = is_ours4(ip.source);
	packet->to_ours = is_ours4(ip.destination);
	packet->tuple.protocol = ip.protocol;
	packet->transport = at + length;
	packet->has_options = length > sizeof(ip);
	fragment = bpf_ntohs(ip.fragment);
	if (fragment & 0x3fff) {
		packet->fragment = fragment & 0x1fff ? LATER_FRAGMENT : FIRST_FRAGMENT;
		packet->fragment_id = ip.id;
	}
	return PARSED;
}

/* Two of each that may come twice, and one of the rest. */
#define EXTENSIONS_MAX 6

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *packet, __u32 at)
{
	struct ipv6_header ip;
	__u8 next;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return MALFORMED;
	if ((bpf_ntohl(ip.version_and_flow) >> 28) != 6)
		return MALFORMED;
	packet->tuple.is_v6 = 1;
	packet->tuple.source = ip.source.word[3];
	packet->tuple.destination = ip.destination.word[3];
	packet->from_ours = is_ours6(&ip.source);
	packet->to_ours = is_ours6(&ip.destination);
	next = ip.next;
	at += sizeof(ip);
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		struct {
			__u8 next, length;
			__be16 fragment;
			__be32 id;
		} extension;

		/* hop-by-hop, routing, fragment, authentication, destination options, mobility */
		if (next != 0 && next != 43 && next != 44 && next != 51 && next != 60 && next != 135) {
			packet->tuple.protocol = next;
			packet->transport = at;
			return PARSED;
		}
		if (bpf_skb_load_bytes(skb, at, &extension, sizeof(extension)))
			return MALFORMED;
		if (next == 43)
			packet->has_options = 1;
		if (next == 44) {
			__u16 fragment = bpf_ntohs(extension.fragment);

			at += 8;
			packet->fragment_id = extension.id;
			/* An "atomic" fragment, offset 0 and no more, is whole. */
			if (fragment & ~7) {
				packet->fragment = LATER_FRAGMENT;
				packet->tuple.protocol = extension.next;
				packet->transport = at;
				return PARSED;
			}
			if (fragment & 1)
				packet->fragment = FIRST_FRAGMENT;
		} else if (next == 51) {
			at += (extension.length + 2) * 4;
		} else {
			at += (extension.length + 1) * 8;
		}
		next = extension.next;
	}
	return MALFORMED;
}

/* Addresses and transport of the packet at `at`; ports of later fragments are not known here. `packet` is zeroed.
 *
 * Like the other functions that are neither static nor inline, the verifier judges it once, whatever it is called with. */
__noinline int parse_at(struct __sk_buff *skb, struct packet *packet, __u32 at, int is_v6, int quoted)
{
	int parsed;

	if (!packet)
		return MALFORMED;
	parsed = is_v6 ? parse_ipv6(skb, packet, at) : parse_ipv4(skb, packet, at);

	if (parsed != PARSED || packet->fragment == LATER_FRAGMENT)
		return parsed;
	return read_transport(skb, packet, quoted);
}

static __always_inline int parse(struct __sk_buff *skb, struct packet *packet)
{
	if (skb->protocol == bpf_htons(ETH_IPV4))
		return parse_at(skb, packet, ETHERNET, 0, 0);
	if (skb->protocol == bpf_htons(ETH_IPV6))
		return parse_at(skb, packet, ETHERNET, 1, 0);
	return NOT_IP;
}

#define ICMP_HEADER 8

/* The packet that an error is about; `quoted` is zeroed. */
static __always_inline int parse_quoted(struct __sk_buff *skb, const struct packet *error, struct packet *quoted)
{
	if (error->fragment)
		return MALFORMED;
	return parse_at(skb, quoted, error->transport + ICMP_HEADER, error->tuple.is_v6, 1);
}

static __always_inline void reverse(const struct tuple *tuple, struct tuple *out)
{
	out->source = tuple->destination;
	out->destination = tuple->source;
	out->source_port = tuple->destination_port;
	out->destination_port = tuple->source_port;
	out->protocol = tuple->protocol;
	out->is_v6 = tuple->is_v6;
	out->zero = 0;
}

#endif
