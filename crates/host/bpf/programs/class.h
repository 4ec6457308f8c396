/* Which queue of a link packets wait in that leave the machine: what a link's queueing discipline sorts by, and what the
 * header says to networks beyond. Of forwarded packets of IPv4 the kernel takes the first from the second; of IPv6 it
 * leaves the first as it is. */
#ifndef COPPICE_CLASS_H
#define COPPICE_CLASS_H

#include "maps.h"

/* The last two bits are congestion's. */
#define SERVICE 0xfc

static __always_inline void classify(struct __sk_buff *skb, const struct packet *packet)
{
	__be32 source = packet->tuple.source;
	__u8 before[2], after[2], service;
	__be16 from = 0, to = 0;
	__u32 *class;

	if (!packet->from_ours || packet->to_ours)
		return;
	class = bpf_map_lookup_elem(&classes, &source);
	if (!class || bpf_skb_load_bytes(skb, ETHERNET, before, sizeof(before)))
		return;
	skb->priority = *class & 0xff;
	service = *class >> 8 & SERVICE;
	if (packet->tuple.is_v6) {
		after[0] = (before[0] & 0xf0) | service >> 4;
		after[1] = (before[1] & 0x3f) | (__u8)(service << 4);
	} else {
		after[0] = before[0];
		after[1] = (before[1] & ~SERVICE) | service;
		__builtin_memcpy(&from, before, sizeof(from));
		__builtin_memcpy(&to, after, sizeof(to));
		if (bpf_l3_csum_replace(skb, ETHERNET + 10, from, to, sizeof(to)))
			return;
	}
	bpf_skb_store_bytes(skb, ETHERNET, after, sizeof(after), 0);
}

#endif
