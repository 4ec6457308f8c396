/* Connections to a service's virtual address, each kept on one backend.
 *
 *   first packet   hash of its tuple → slot of the service's Maglev table → backend; two entries of `flows`
 *   the rest       one look: the backend's address as destination, and back the service's as source
 *
 * A backend that left the table keeps its connections; one whose endpoint is gone loses them. Where both ends are on
 * this bridge, packets go straight into the other's namespace; else they are left to the stack, and answers that come
 * through it are rewritten where they leave for the container. */
#ifndef COPPICE_BALANCE_H
#define COPPICE_BALANCE_H

#include "maps.h"
#include "metrics.h"
#include "policy.h"
#include "settings.h"

#define UDP_SILENCE (30 * SECOND)
#define REFRESH SECOND
#define PORT_TRIES 8
#define PORTS_OF_OURS 61000

static __always_inline __u32 mix(__u32 hash, __u32 word)
{
	hash ^= word * 0xcc9e2d51;
	hash = (hash << 13) | (hash >> 19);
	return hash * 5 + 0xe6546b64;
}

static __always_inline __u32 hash_of(const struct tuple *tuple)
{
	__u32 hash = tuple->protocol;

	hash = mix(hash, tuple->source);
	hash = mix(hash, tuple->destination);
	hash = mix(hash, (__u32)tuple->source_port << 16 | tuple->destination_port);
	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	return hash ^ hash >> 16;
}

/* The four bytes of the sender's (else the receiver's) address and a port, with all checksums. Of an IPv6 address they
 * are the last, and the rest is the same for all of ours. */
static __always_inline int rewrite(struct __sk_buff *skb, const struct packet *packet, int source, __be32 address,
				   int source_port, __be16 port)
{
	const struct tuple *tuple = &packet->tuple;
	__u32 checksum_at = packet->transport + (tuple->protocol == TCP ? 16 : 6);
	__u64 flags = tuple->protocol == UDP && !tuple->is_v6 ? BPF_F_MARK_MANGLED_0 : 0;
	__be32 before = source ? tuple->source : tuple->destination;
	__be16 port_before = source_port ? tuple->source_port : tuple->destination_port;
	int has_transport = packet->fragment != LATER_FRAGMENT;
	__u32 at;

	if (has_transport && bpf_l4_csum_replace(skb, checksum_at, before, address, BPF_F_PSEUDO_HDR | flags | 4))
		return -1;
	if (has_transport && port_before != port) {
		if (bpf_l4_csum_replace(skb, checksum_at, port_before, port, flags | 2))
			return -1;
		if (bpf_skb_store_bytes(skb, packet->transport + (source_port ? 0 : 2), &port, 2, 0))
			return -1;
	}
	if (tuple->is_v6) {
		at = ETHERNET + (source ? 20 : 36);
	} else {
		if (bpf_l3_csum_replace(skb, ETHERNET + 10, before, address, 4))
			return -1;
		at = ETHERNET + (source ? 12 : 16);
	}
	return bpf_skb_store_bytes(skb, at, &address, 4, 0) ? -1 : 0;
}

/* Into the namespace of the container at `address`, as if its link had brought it. */
static __always_inline int deliver(struct __sk_buff *skb, const struct endpoint *endpoint, __be32 address)
{
	struct {
		__u8 to_stem[2];
		__be32 to;
		__u8 from_stem[2];
		__be32 from;
	} __attribute__((packed)) header = { { MAC_STEM_0, MAC_STEM_1 }, address, { MAC_STEM_0, MAC_STEM_1 }, GATEWAY };

	if (bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(endpoint->link, 0);
}

/* The backend that the table gives a new connection; 0 when there is none. */
static __always_inline __be32 *choose(const struct service *service, const struct tuple *tuple)
{
	__u32 index = service->table, slot;
	struct table *table = bpf_map_lookup_elem(&tables, &index);

	if (!table)
		return 0;
	slot = hash_of(tuple) % SLOTS;
	/* The verifier does not know what a remainder is; the compiler does, and would leave the check out. */
	asm volatile("" : "+r"(slot));
	if (slot >= SLOTS)
		return 0;
	index = table->slot[slot];
	if (index == NO_BACKEND)
		return 0;
	return bpf_map_lookup_elem(&backends, &index);
}

/* A container that is its own service's client would not take a packet from its own address: it comes from the
 * gateway's then. */
static __always_inline int is_own_client(const struct tuple *tuple, const struct flow *flow)
{
	return tuple->source == flow->address;
}

static __always_inline void way_back(const struct tuple *tuple, const struct flow *flow, struct tuple *out)
{
	reverse(tuple, out);
	out->source = flow->address;
	if (is_own_client(tuple, flow))
		out->destination = GATEWAY;
	out->destination_port = flow->port;
}

/* Whether another connection than `tuple`'s has this way back: the same client has the same port open to the same
 * backend by another of its addresses. */
static __always_inline int is_taken(const struct tuple *back, const struct tuple *tuple, __u64 now)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, back);

	if (!flow || (flow->port == tuple->source_port && flow->address == tuple->destination))
		return 0;
	return tuple->protocol == TCP || now - flow->seen_ns < UDP_SILENCE;
}

static __always_inline void remember(const struct tuple *tuple, const struct flow *flow)
{
	struct tuple back;
	struct flow answer = {
		.seen_ns = flow->seen_ns,
		.address = tuple->destination,
		.port = tuple->source_port,
		.kind = TO_CLIENT,
		.direct = flow->direct,
	};

	way_back(tuple, flow, &back);
	bpf_map_update_elem(&flows, &back, &answer, BPF_ANY);
}

/* Fills `flow` for a connection that begins. */
static __always_inline int begin(const struct service *service, const struct tuple *tuple, struct flow *flow,
				 __u64 now)
{
	__be32 *backend = choose(service, tuple);
	struct tuple back;
	__u32 seed;

	if (!backend)
		return -1;
	flow->seen_ns = now;
	flow->address = *backend;
	flow->port = tuple->source_port;
	flow->kind = TO_BACKEND;
	flow->direct = bpf_map_lookup_elem(&endpoints, &flow->address) &&
		       bpf_map_lookup_elem(&endpoints, &tuple->source);
	/* The gateway's address cannot come to the stack from here: rules have to do it. */
	if (is_own_client(tuple, flow) && !flow->direct) {
		flow->kind = LEFT_TO_STACK;
		return 0;
	}
	seed = bpf_get_prandom_u32();
	for (int i = 0; i < PORT_TRIES; i++) {
		way_back(tuple, flow, &back);
		/* The gateway's ports are the host's own, which uses these least. */
		if ((i || !is_own_client(tuple, flow)) && !is_taken(&back, tuple, now))
			break;
		flow->port = bpf_htons(PORTS_OF_OURS + (seed + i) % (65536 - PORTS_OF_OURS));
	}
	return 0;
}

/* A packet to an address of services; `service` is none where there is no such service, or no longer. */
__noinline int to_service(struct __sk_buff *skb, struct packet *packet, const struct service *service)
{
	struct tuple tuple;
	__u64 now = bpf_ktime_get_ns();
	struct flow *known, flow = {};
	struct endpoint *endpoint = 0;
	__u32 from, to;
	int opens, begins = 0;

	if (!packet)
		return TC_ACT_UNSPEC;
	tuple = packet->tuple;
	opens = tuple.protocol == TCP && (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	if ((tuple.protocol != TCP && tuple.protocol != UDP) || packet->without_ports)
		return TC_ACT_UNSPEC;
	known = bpf_map_lookup_elem(&flows, &tuple);
	if (known && known->kind != TO_CLIENT && !opens &&
	    (tuple.protocol == TCP || now - known->seen_ns < UDP_SILENCE)) {
		flow = *known;
		if (flow.direct) {
			endpoint = bpf_map_lookup_elem(&endpoints, &flow.address);
			if (!endpoint) /* The backend is gone. */
				known = 0;
		}
	} else {
		known = 0;
	}
	if (!known) {
		if (!service || begin(service, &tuple, &flow, now))
			return TC_ACT_UNSPEC;
		begins = 1;
		if (flow.direct)
			endpoint = bpf_map_lookup_elem(&endpoints, &flow.address);
	}
	if (flow.kind == LEFT_TO_STACK) {
		if (begins || now - flow.seen_ns > REFRESH) {
			flow.seen_ns = now;
			bpf_map_update_elem(&flows, &tuple, &flow, BPF_ANY);
		}
		return TC_ACT_UNSPEC;
	}

	packet->tuple.destination = flow.address;
	packet->tuple.source_port = flow.port;
	from = identity_of(tuple.source, packet->from_ours);
	to = identity_of(flow.address, 1);
	if (!may_pass(skb, packet, from, to))
		return TC_ACT_SHOT;
	if (begins) {
		bpf_map_update_elem(&flows, &tuple, &flow, BPF_ANY);
		remember(&tuple, &flow);
	} else if (now - flow.seen_ns > REFRESH) {
		known->seen_ns = now;
		flow.seen_ns = now;
		/* The way back may have been forgotten to make room. */
		remember(&tuple, &flow);
	}
	count_to_service(skb, tuple.destination, begins);
	count(skb, from, to, begins);
	packet->tuple = tuple;
	if (is_own_client(&tuple, &flow)) {
		if (rewrite(skb, packet, 1, GATEWAY, 1, tuple.source_port))
			return TC_ACT_SHOT;
	}
	if (rewrite(skb, packet, 0, flow.address, 1, flow.port))
		return TC_ACT_SHOT;
	if (endpoint)
		return deliver(skb, endpoint, flow.address);
	return TC_ACT_UNSPEC;
}

/* The flow that an answer to a service's client belongs to. */
static __always_inline struct flow *flow_of_answer(const struct packet *packet)
{
	struct flow *flow;

	if (packet->tuple.protocol != TCP && packet->tuple.protocol != UDP)
		return 0;
	flow = bpf_map_lookup_elem(&flows, &packet->tuple);
	return flow && flow->kind == TO_CLIENT ? flow : 0;
}

/* Who an answer is for: its receiver, but for the answer of a container to itself. */
static __always_inline __be32 client_of(const struct packet *packet)
{
	return packet->tuple.destination == GATEWAY ? packet->tuple.source : packet->tuple.destination;
}

static __always_inline int rewrite_answer(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	__be32 client = client_of(packet);

	count_from_service(skb, flow->address);
	if (client != packet->tuple.destination &&
	    rewrite(skb, packet, 0, client, 0, packet->tuple.destination_port))
		return -1;
	return rewrite(skb, packet, 1, flow->address, 0, flow->port);
}

/* An error that a backend sends about a packet of a service's client, which knows the service's address alone: the
 * address in the quoted packet is the service's again, and so is the sender's where it was the backend's. Errors of
 * connections that pass the stack are left as they are. */
__noinline int error_to_client(struct __sk_buff *skb, const struct packet *packet)
{
	struct packet quoted = {};
	struct tuple back;
	struct flow *flow;
	struct endpoint *client;
	__u32 checksum_at, quoted_at;
	__be32 backend, address;

	if (!packet)
		return TC_ACT_UNSPEC;
	checksum_at = packet->transport + 2;
	quoted_at = packet->transport + ICMP_HEADER;
	if (parse_quoted(skb, packet, &quoted) != PARSED || quoted.fragment == LATER_FRAGMENT)
		return TC_ACT_UNSPEC;
	reverse(&quoted.tuple, &back);
	flow = bpf_map_lookup_elem(&flows, &back);
	if (!flow || flow->kind != TO_CLIENT || !flow->direct || back.destination != packet->tuple.destination)
		return TC_ACT_UNSPEC;
	client = bpf_map_lookup_elem(&endpoints, &back.destination);
	if (!client)
		return TC_ACT_SHOT;
	address = flow->address;
	backend = back.source;
	if (flow->port != quoted.tuple.source_port) {
		__be16 port = flow->port;

		if (bpf_l4_csum_replace(skb, checksum_at, quoted.tuple.source_port, port, 2) ||
		    bpf_skb_store_bytes(skb, quoted.transport, &port, 2, 0))
			return TC_ACT_SHOT;
	}
	if (packet->tuple.is_v6) {
		if (bpf_l4_csum_replace(skb, checksum_at, backend, address, 4) ||
		    bpf_skb_store_bytes(skb, quoted_at + 36, &address, 4, 0))
			return TC_ACT_SHOT;
		if (packet->tuple.source == backend &&
		    (bpf_l4_csum_replace(skb, checksum_at, backend, address, BPF_F_PSEUDO_HDR | 4) ||
		     bpf_skb_store_bytes(skb, ETHERNET + 20, &address, 4, 0)))
			return TC_ACT_SHOT;
	} else {
		/* The quoted header's own checksum makes up for its address: ICMP's stays. */
		if (bpf_l3_csum_replace(skb, quoted_at + 10, backend, address, 4) ||
		    bpf_skb_store_bytes(skb, quoted_at + 16, &address, 4, 0))
			return TC_ACT_SHOT;
		if (packet->tuple.source == backend &&
		    (bpf_l3_csum_replace(skb, ETHERNET + 10, backend, address, 4) ||
		     bpf_skb_store_bytes(skb, ETHERNET + 12, &address, 4, 0)))
			return TC_ACT_SHOT;
	}
	return deliver(skb, client, back.destination);
}

#endif
