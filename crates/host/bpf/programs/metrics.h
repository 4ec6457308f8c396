/* Counting. Packets that the sender's kernel left joined (GSO) count as the packets they become on a wire. */
#ifndef COPPICE_METRICS_H
#define COPPICE_METRICS_H

#include "maps.h"
#include "settings.h"

static __always_inline __u32 packets_of(struct __sk_buff *skb)
{
	__u32 segments = skb->gso_segs;

	return segments ? segments : 1;
}

static __always_inline struct traffic *traffic_between(__u32 from, __u32 to)
{
	struct direction direction = { .from = from, .to = to };
	struct traffic none = {};
	struct traffic *found = bpf_map_lookup_elem(&pair_traffic, &direction);

	if (found)
		return found;
	bpf_map_update_elem(&pair_traffic, &direction, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&pair_traffic, &direction);
}

static __always_inline void count_denied(__u32 from, __u32 to)
{
	struct traffic *counted = traffic_between(from, to);

	if (counted)
		counted->denied++;
}

static __always_inline void count(struct __sk_buff *skb, __u32 from, __u32 to, int begins)
{
	struct traffic *counted;

	if (!WITH_METRICS || (from == NOBODY && to == NOBODY))
		return;
	counted = traffic_between(from, to);
	if (!counted)
		return;
	counted->packets += packets_of(skb);
	counted->bytes += skb->len - ETHERNET;
	counted->connections += begins;
}

static __always_inline struct service_traffic *traffic_of_service(__be32 address)
{
	struct service_traffic none = {};
	struct service_traffic *found = bpf_map_lookup_elem(&service_traffic, &address);

	if (found)
		return found;
	bpf_map_update_elem(&service_traffic, &address, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&service_traffic, &address);
}

static __always_inline void count_to_service(struct __sk_buff *skb, __be32 address, int begins)
{
	struct service_traffic *counted;

	if (!WITH_METRICS)
		return;
	counted = traffic_of_service(address);
	if (!counted)
		return;
	counted->packets_in += packets_of(skb);
	counted->bytes_in += skb->len - ETHERNET;
	counted->connections += begins;
}

static __always_inline void count_from_service(struct __sk_buff *skb, __be32 address)
{
	struct service_traffic *counted;

	if (!WITH_METRICS)
		return;
	counted = traffic_of_service(address);
	if (!counted)
		return;
	counted->packets_out += packets_of(skb);
	counted->bytes_out += skb->len - ETHERNET;
}

static __always_inline void count_answer(int is_v6)
{
	__u32 which = is_v6;
	__u64 *given = bpf_map_lookup_elem(&answers_given, &which);

	if (given)
		++*given;
}

#endif
