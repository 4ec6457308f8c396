/* Who may begin talking to whom. Judged by addresses alone, whatever the protocol, for every packet; what answers a
 * connection that was let through passes. Nothing is passed for its TTL, its fragments, its options or its kind. */
#ifndef COPPICE_POLICY_H
#define COPPICE_POLICY_H

#include "maps.h"
#include "metrics.h"
#include "settings.h"

#define SECOND 1000000000ULL
/* As long as nf_conntrack lets silence last by default: TCP that is open, and the rest. */
#define SILENCE_TCP (432000 * SECOND)
#define SILENCE_OTHER (180 * SECOND)
#define SILENCE_CLOSING (120 * SECOND)

/* Of an end of a packet. Containers that nobody named share the identity 0. */
static __always_inline __u32 identity_of(__be32 address, int is_ours)
{
	__u32 *identity;

	if (!is_ours || address == GATEWAY || address & SERVICES_BIT)
		return NOBODY;
	identity = bpf_map_lookup_elem(&identities, &address);
	return identity ? *identity : 0;
}

/* DENIED_UP and DENIED_DOWN seen from `from`: bit 0 the way from it, bit 1 the way to it. */
static __always_inline __u32 denials(__u32 from, __u32 to)
{
	struct pair pair = { .low = from < to ? from : to, .high = from < to ? to : from };
	__u32 *found;
	__u32 bits;

	if (from == NOBODY || to == NOBODY)
		return 0;
	found = bpf_map_lookup_elem(&denied, &pair);
	if (!found)
		return 0;
	bits = *found;
	return from <= to ? bits & 3 : ((bits & DENIED_UP) << 1) | ((bits & DENIED_DOWN) >> 1);
}

static __always_inline int is_fresh(const struct passage *passage, __u8 protocol, __u64 now)
{
	__u64 silence = protocol == TCP ? SILENCE_TCP : SILENCE_OTHER;

	if (passage->closing)
		silence = SILENCE_CLOSING;
	return now - passage->seen_ns < silence;
}

/* Notes that a connection passed whose answers would be denied. */
static __always_inline void let_answers(const struct packet *packet)
{
	/* On the stack: older kernels take no key from elsewhere. */
	struct tuple tuple = packet->tuple;
	struct passage *passage = bpf_map_lookup_elem(&passages, &tuple);
	__u64 now = bpf_ktime_get_ns();

	if (passage && is_fresh(passage, packet->tuple.protocol, now) &&
	    !(packet->tcp_flags & TCP_SYN && passage->closing)) {
		passage->seen_ns = now;
		if (packet->tcp_flags & (TCP_FIN | TCP_RST))
			passage->closing = 1;
	} else {
		struct passage begun = { .seen_ns = now };

		bpf_map_update_elem(&passages, &tuple, &begun, BPF_ANY);
	}
}

/* Whether `packet` belongs to a connection that its receiver began and that was let through. */
static __always_inline int answers(struct __sk_buff *skb, const struct packet *packet)
{
	struct tuple first = {};
	struct passage *passage;
	__u64 now;

	if (packet->is_error) {
		/* An error about a packet of such a connection: inside is what its receiver sent. */
		struct packet quoted = {};

		if (parse_quoted(skb, packet, &quoted) != PARSED)
			return 0;
		if (quoted.tuple.source != packet->tuple.destination ||
		    quoted.tuple.destination != packet->tuple.source)
			return 0;
		first = quoted.tuple;
	} else {
		reverse(&packet->tuple, &first);
	}
	passage = bpf_map_lookup_elem(&passages, &first);
	now = bpf_ktime_get_ns();
	if (!passage || !is_fresh(passage, first.protocol, now))
		return 0;
	if (!packet->is_error)
		passage->seen_ns = now;
	if (packet->tcp_flags & (TCP_FIN | TCP_RST))
		passage->closing = 1;
	return 1;
}

/* Whether the packet, with addresses as its receiver sees them, may go on. */
__noinline int may_pass(struct __sk_buff *skb, const struct packet *packet, __u32 from, __u32 to)
{
	__u32 bits;

	if (!WITH_POLICY || !packet)
		return 1;
	bits = denials(from, to);
	if (!bits)
		return 1;
	if (bits & 1) {
		if (answers(skb, packet))
			return 1;
		count_denied(from, to);
		return 0;
	}
	if (!packet->is_error)
		let_answers(packet);
	return 1;
}

#endif
