/* Published ports: what comes from beyond by a link of the machine goes straight into the container, and what the
 * container answers goes straight back, both without the host's stack.
 *
 *   uplink  port_map     (XDP)  port and client → container; noted before the packet, which goes on
 *           into_host    (TC)   what is noted is remembered and carried out, the packet handed to the container
 *   bridge  out_of_host  (TC)   answers get the address and port back that the client knows, and leave by its link
 *
 * Two programs for one way because a checksum may be still to be made (by a device, or for packets that were joined)
 * or not, which XDP cannot see; helpers of TC do. Where a device loses the note, nothing has happened. What is in any way unusual is left to the stack with its rules, from
 * a connection's first packet on: fragments, options, a client whose answers would leave by another link. */
#include "ports.h"
#include "settings.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define SECOND 1000000000ULL
#define UDP_SILENCE (30 * SECOND)
#define CLOSED_SILENCE (120 * SECOND)
#define PORT_TRIES 8
#define PORTS_OF_OURS 61000
#define MAC_LENGTH 6
#define FAMILY_IPV4 2
#define FAMILY_IPV6 10

/* Before the packet, from XDP to TC. Only programs of this machine can put something there. */
struct note {
	__u32 magic;
	__be32 container;
	__be16 port;
	__be16 client_port;
	/* Where the transport header begins. */
	__u8 transport;
	__u8 protocol;
	__u8 is_v6;
	/* To be remembered: it is new, or was remembered a while ago. */
	__u8 is_news;
};

#define NOTE 0xc09b1ce5

static __always_inline void mapped(struct address6 *address, __be32 ip)
{
	address->word[0] = 0;
	address->word[1] = 0;
	address->word[2] = bpf_htonl(0xffff);
	address->word[3] = ip;
}

static __always_inline int is_ours(const struct address6 *address)
{
	if (address->word[0] == 0 && address->word[1] == 0 && address->word[2] == bpf_htonl(0xffff))
		return is_ours4(address->word[3]);
	return is_ours6(address);
}

static __always_inline void address_of(struct address6 *address, __be32 container, int is_v6)
{
	if (is_v6) {
		address->word[0] = STEM_0;
		address->word[1] = STEM_1;
		address->word[2] = 0;
		address->word[3] = container;
	} else {
		mapped(address, container);
	}
}

/* ── XDP ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct arrival {
	struct visit_key key;
	__u8 transport;
	__u8 is_v6;
	__u8 opens;
};

/* Addresses and ports of a packet that has nothing unusual; 0 when it has. */
static __always_inline int read_arrival(struct xdp_md *ctx, struct arrival *arrival)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__be16 *kind = data + 12;
	__be16 *both;
	__u8 *flags;
	void *transport;

	if (data + ETHERNET > end)
		return 0;
	if (*kind == bpf_htons(ETH_IPV4)) {
		struct ipv4_header *ip = data + ETHERNET;

		if ((void *)(ip + 1) > end || ip->version_and_length != 0x45 || ip->ttl <= 1 ||
		    ip->fragment & bpf_htons(0x3fff))
			return 0;
		mapped(&arrival->key.client, ip->source);
		mapped(&arrival->key.host, ip->destination);
		arrival->key.protocol = ip->protocol;
		arrival->transport = ETHERNET + sizeof(*ip);
		transport = ip + 1;
	} else if (WITH_IPV6 && *kind == bpf_htons(ETH_IPV6)) {
		struct ipv6_header *ip = data + ETHERNET;

		if ((void *)(ip + 1) > end || ip->hops <= 1)
			return 0;
		arrival->key.client = ip->source;
		arrival->key.host = ip->destination;
		arrival->key.protocol = ip->next;
		arrival->transport = ETHERNET + sizeof(*ip);
		arrival->is_v6 = 1;
		transport = ip + 1;
	} else {
		return 0;
	}
	if (arrival->key.protocol != TCP && arrival->key.protocol != UDP)
		return 0;
	both = transport;
	if (transport + 8 > end)
		return 0;
	arrival->key.client_port = both[0];
	arrival->key.host_port = both[1];
	if (arrival->key.protocol == TCP) {
		flags = transport + 13;
		if (transport + 20 > end)
			return 0;
		arrival->opens = (*flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	}
	return 1;
}

static __always_inline struct port *port_of(const struct visit_key *visit)
{
	struct port_key key = {
		.address = visit->host,
		.port = visit->host_port,
		.protocol = visit->protocol,
	};
	struct port *exact = bpf_map_lookup_elem(&ports, &key);

	if (exact)
		return exact;
	__builtin_memset(&key.address, 0, sizeof(key.address));
	return bpf_map_lookup_elem(&ports, &key);
}

/* Whether what the client is answered leaves by the link that it came by. */
static __always_inline int comes_back(struct xdp_md *ctx, const struct visit_key *visit, int is_v6)
{
	struct bpf_fib_lookup way = { .ifindex = BRIDGE, .l4_protocol = visit->protocol };
	long found;

	if (is_v6) {
		way.family = FAMILY_IPV6;
		__builtin_memcpy(way.ipv6_src, &visit->host, sizeof(way.ipv6_src));
		__builtin_memcpy(way.ipv6_dst, &visit->client, sizeof(way.ipv6_dst));
	} else {
		way.family = FAMILY_IPV4;
		way.ipv4_src = visit->host.word[3];
		way.ipv4_dst = visit->client.word[3];
	}
	found = bpf_fib_lookup(ctx, &way, sizeof(way), 0);
	return (found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH) &&
	       way.ifindex == ctx->ingress_ifindex;
}

static __always_inline void key_of_answer(const struct visit_key *key, const struct visit *visit, int is_v6,
					  struct answer_key *out)
{
	out->client = key->client;
	out->container = visit->container;
	out->client_port = visit->client_port;
	out->port = visit->port;
	out->protocol = key->protocol;
	out->is_v6 = is_v6;
	out->zero = 0;
}

/* Fills `visit` for a connection that begins; 0 where the stack has to do it. */
static __always_inline int begin(struct xdp_md *ctx, const struct arrival *arrival, struct visit *visit,
				 struct answer_key *back)
{
	const struct visit_key *key = &arrival->key;
	struct port *port = port_of(key);
	struct answer *other;
	__u32 chosen, seed;

	if (!port || !port->count)
		return 0;
	chosen = bpf_get_prandom_u32() % port->count;
	asm volatile("" : "+r"(chosen));
	if (chosen >= PORT_BACKENDS_MAX)
		return 0;
	visit->container = port->backend[chosen].address;
	visit->port = port->backend[chosen].port;
	visit->client_port = key->client_port;
	if (!bpf_map_lookup_elem(&endpoints, &visit->container) || !comes_back(ctx, key, arrival->is_v6))
		return 0;
	seed = bpf_get_prandom_u32();
	for (int i = 0; i < PORT_TRIES; i++) {
		key_of_answer(key, visit, arrival->is_v6, back);
		other = bpf_map_lookup_elem(&answered, back);
		/* The same client may have the same port open to another port or address that leads here too. */
		if (!other || (other->client_port == key->client_port && other->host_port == key->host_port &&
			       other->host.word[3] == key->host.word[3]) ||
		    visit->seen_ns - other->seen_ns > CLOSED_SILENCE)
			return 1;
		visit->client_port = bpf_htons(PORTS_OF_OURS + (seed + i) % (65536 - PORTS_OF_OURS));
	}
	return 0;
}

/* Whether a known connection is still one: its container is there, and of a datagram's flow either end was heard. */
static __always_inline int goes_on(const struct arrival *arrival, const struct visit *visit, __u64 now)
{
	struct answer_key back = {};
	struct answer *answer;

	if (!bpf_map_lookup_elem(&endpoints, &visit->container))
		return 0;
	if (arrival->key.protocol == TCP || now - visit->seen_ns < UDP_SILENCE)
		return 1;
	key_of_answer(&arrival->key, visit, arrival->is_v6, &back);
	answer = bpf_map_lookup_elem(&answered, &back);
	return answer && now - answer->seen_ns < UDP_SILENCE;
}

/* What is the stack's from here on is not answered from here. */
static __always_inline void forget(const struct arrival *arrival, const struct visit *visit)
{
	struct answer_key back = {};

	key_of_answer(&arrival->key, visit, arrival->is_v6, &back);
	bpf_map_delete_elem(&answered, &back);
	bpf_map_delete_elem(&visits, &arrival->key);
}

/* Without ".frags": Linux 6.9 to 6.18 at least give such packets to TC without their link header. */
SEC("xdp")
int port_map(struct xdp_md *ctx)
{
	struct arrival arrival = {};
	struct answer_key back = {};
	struct visit visit = {}, *known;
	__u64 now = bpf_ktime_get_ns();
	struct note *note;

	if (!read_arrival(ctx, &arrival))
		return XDP_PASS;
	/* Who says to be a container, or this machine, does not come from beyond. */
	if (is_ours(&arrival.key.client) || !bpf_map_lookup_elem(&locals, &arrival.key.host) ||
	    bpf_map_lookup_elem(&locals, &arrival.key.client))
		return XDP_PASS;
	known = bpf_map_lookup_elem(&visits, &arrival.key);
	if (known && !arrival.opens && goes_on(&arrival, known, now)) {
		visit = *known;
	} else {
		if (known)
			forget(&arrival, known);
		known = 0;
		/* A connection whose begin was not seen is the stack's. */
		if (arrival.key.protocol == TCP && !arrival.opens)
			return XDP_PASS;
		visit.seen_ns = now;
		if (!begin(ctx, &arrival, &visit, &back))
			return XDP_PASS;
	}
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*note)))
		return XDP_PASS;
	note = (void *)(long)ctx->data_meta;
	if ((void *)(note + 1) > (void *)(long)ctx->data)
		return XDP_PASS;
	note->magic = NOTE;
	note->container = visit.container;
	note->port = visit.port;
	note->client_port = visit.client_port;
	note->transport = arrival.transport;
	note->protocol = arrival.key.protocol;
	note->is_v6 = arrival.is_v6;
	note->is_news = !known || now - known->seen_ns > SECOND;
	return XDP_PASS;
}

/* ── TC ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

/* An address and a port of a packet, and one hop less to go. `checksum` is where the transport's is; 0: there is none
 * in this packet, and no ports. */
static __always_inline int rewrite(struct __sk_buff *skb, int is_v6, int source, const struct address6 *address,
				   __u32 checksum, __u64 flags)
{
	struct address6 before, after = *address;
	__u32 at = ETHERNET + (is_v6 ? (source ? 8 : 24) : (source ? 12 : 16));
	__s64 difference;

	if (is_v6) {
		if (bpf_skb_load_bytes(skb, at, &before, sizeof(before)))
			return -1;
		difference = bpf_csum_diff(before.word, sizeof(before), after.word, sizeof(after), 0);
		if (checksum && bpf_l4_csum_replace(skb, checksum, 0, difference, BPF_F_PSEUDO_HDR | flags))
			return -1;
		/* With the flag, a device's sum over the whole packet stays what it is: here, two changes make up for each
		 * other that are three in IPv4's. */
		return bpf_skb_store_bytes(skb, at, &after, sizeof(after), checksum ? BPF_F_RECOMPUTE_CSUM : 0) ? -1 : 0;
	}
	if (bpf_skb_load_bytes(skb, at, &before.word[3], 4))
		return -1;
	if (checksum &&
	    bpf_l4_csum_replace(skb, checksum, before.word[3], after.word[3], BPF_F_PSEUDO_HDR | flags | 4))
		return -1;
	if (bpf_l3_csum_replace(skb, ETHERNET + 10, before.word[3], after.word[3], 4))
		return -1;
	return bpf_skb_store_bytes(skb, at, &after.word[3], 4, 0) ? -1 : 0;
}

static __always_inline int rewrite_port(struct __sk_buff *skb, __u32 at, __be16 port, __u32 checksum, __u64 flags)
{
	__be16 before;

	if (bpf_skb_load_bytes(skb, at, &before, sizeof(before)))
		return -1;
	if (before == port)
		return 0;
	if (bpf_l4_csum_replace(skb, checksum, before, port, flags | 2))
		return -1;
	return bpf_skb_store_bytes(skb, at, &port, sizeof(port), 0) ? -1 : 0;
}

static __always_inline int one_hop_less(struct __sk_buff *skb, int is_v6)
{
	__u8 left, life[2];
	__be16 before, after;

	if (is_v6) {
		if (bpf_skb_load_bytes(skb, ETHERNET + 7, &left, 1) || left <= 1)
			return -1;
		left--;
		return bpf_skb_store_bytes(skb, ETHERNET + 7, &left, 1, BPF_F_RECOMPUTE_CSUM) ? -1 : 0;
	}
	/* With the protocol beside it: checksums are of two bytes. */
	if (bpf_skb_load_bytes(skb, ETHERNET + 8, life, 2) || life[0] <= 1)
		return -1;
	__builtin_memcpy(&before, life, 2);
	life[0]--;
	__builtin_memcpy(&after, life, 2);
	if (bpf_l3_csum_replace(skb, ETHERNET + 10, before, after, 2))
		return -1;
	return bpf_skb_store_bytes(skb, ETHERNET + 8, life, 2, 0) ? -1 : 0;
}

static __always_inline int hand_over(struct __sk_buff *skb, __be32 container)
{
	struct {
		__u8 to_stem[2];
		__be32 to;
		__u8 from_stem[2];
		__be32 from;
	} __attribute__((packed)) header = { { MAC_STEM_0, MAC_STEM_1 }, container, { MAC_STEM_0, MAC_STEM_1 }, GATEWAY };
	struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints, &container);

	if (!endpoint || bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(endpoint->link, 0);
}

static __always_inline __u32 checksum_of(__u8 protocol, __u32 transport)
{
	return transport + (protocol == TCP ? 16 : 6);
}

/* Of IPv4, a datagram may have none. */
static __always_inline __u64 flags_of(__u8 protocol, int is_v6)
{
	return protocol == UDP && !is_v6 ? BPF_F_MARK_MANGLED_0 : 0;
}

/* An error of a router, or of the client's machine, about what a container answered: without it the container would
 * not learn how large packets may be. */
static __always_inline int error_from_beyond(struct __sk_buff *skb)
{
	struct packet packet = {}, quoted = {};
	struct visit_key key = {};
	struct visit *visit;
	struct address6 inside;
	__u32 checksum_at, quoted_at;
	__s64 difference;

	if (parse(skb, &packet) != PARSED || !packet.is_error || packet.fragment ||
	    packet.transport != ETHERNET + (packet.tuple.is_v6 ? sizeof(struct ipv6_header) : sizeof(struct ipv4_header)))
		return TC_ACT_UNSPEC;
	if (parse_quoted(skb, &packet, &quoted) != PARSED || quoted.fragment == LATER_FRAGMENT)
		return TC_ACT_UNSPEC;
	quoted_at = packet.transport + ICMP_HEADER;
	if (packet.tuple.is_v6) {
		if (bpf_skb_load_bytes(skb, quoted_at + 8, &key.host, 16) ||
		    bpf_skb_load_bytes(skb, quoted_at + 24, &key.client, 16))
			return TC_ACT_UNSPEC;
	} else {
		mapped(&key.host, quoted.tuple.source);
		mapped(&key.client, quoted.tuple.destination);
	}
	key.host_port = quoted.tuple.source_port;
	key.client_port = quoted.tuple.destination_port;
	key.protocol = quoted.tuple.protocol;
	visit = bpf_map_lookup_elem(&visits, &key);
	if (!visit)
		return TC_ACT_UNSPEC;
	checksum_at = packet.transport + 2;
	address_of(&inside, visit->container, packet.tuple.is_v6);
	if (visit->port != key.host_port &&
	    (bpf_l4_csum_replace(skb, checksum_at, key.host_port, visit->port, 2) ||
	     bpf_skb_store_bytes(skb, quoted.transport, &visit->port, 2, 0)))
		return TC_ACT_SHOT;
	if (visit->client_port != key.client_port &&
	    (bpf_l4_csum_replace(skb, checksum_at, key.client_port, visit->client_port, 2) ||
	     bpf_skb_store_bytes(skb, quoted.transport + 2, &visit->client_port, 2, 0)))
		return TC_ACT_SHOT;
	if (packet.tuple.is_v6) {
		/* ICMPv6's checksum is of what is quoted and of the receiver's address. */
		difference = bpf_csum_diff(key.host.word, 16, inside.word, 16, 0);
		if (bpf_l4_csum_replace(skb, checksum_at, 0, difference, 0) ||
		    bpf_skb_store_bytes(skb, quoted_at + 8, &inside, 16, 0) ||
		    rewrite(skb, 1, 0, &inside, checksum_at, 0))
			return TC_ACT_SHOT;
	} else {
		/* The quoted header's own checksum makes up for its address: ICMP's stays. */
		if (bpf_l3_csum_replace(skb, quoted_at + 10, key.host.word[3], inside.word[3], 4) ||
		    bpf_skb_store_bytes(skb, quoted_at + 12, &inside.word[3], 4, 0) ||
		    rewrite(skb, 0, 0, &inside, 0, 0))
			return TC_ACT_SHOT;
	}
	return hand_over(skb, visit->container);
}

/* Both ways of a connection that is noted, by the packet as its client sent it. */
static __always_inline int remember(struct __sk_buff *skb, const struct note *note)
{
	struct visit_key key = { .protocol = note->protocol };
	struct visit visit = {
		.seen_ns = bpf_ktime_get_ns(),
		.container = note->container,
		.port = note->port,
		.client_port = note->client_port,
	};
	struct answer answer = { .seen_ns = visit.seen_ns, .uplink = skb->ifindex };
	struct answer_key back = {};
	__be16 both[2];

	if (note->is_v6) {
		if (bpf_skb_load_bytes(skb, ETHERNET + 8, &key.client, 16) ||
		    bpf_skb_load_bytes(skb, ETHERNET + 24, &key.host, 16))
			return -1;
	} else {
		mapped(&key.client, 0);
		mapped(&key.host, 0);
		if (bpf_skb_load_bytes(skb, ETHERNET + 12, &key.client.word[3], 4) ||
		    bpf_skb_load_bytes(skb, ETHERNET + 16, &key.host.word[3], 4))
			return -1;
	}
	if (bpf_skb_load_bytes(skb, note->transport, both, sizeof(both)))
		return -1;
	key.client_port = both[0];
	key.host_port = both[1];
	answer.host = key.host;
	answer.host_port = key.host_port;
	answer.client_port = key.client_port;
	key_of_answer(&key, &visit, note->is_v6, &back);
	bpf_map_update_elem(&answered, &back, &answer, BPF_ANY);
	bpf_map_update_elem(&visits, &key, &visit, BPF_ANY);
	return 0;
}

SEC("classifier")
int into_host(struct __sk_buff *skb)
{
	struct note *noted;
	struct address6 inside;
	struct note note;
	__u32 checksum;
	__u64 flags;
	__be16 kind;

	if (bpf_skb_load_bytes(skb, 12, &kind, sizeof(kind)) || kind != (__be16)skb->protocol)
		return TC_ACT_UNSPEC;
	noted = (void *)(long)skb->data_meta;
	if ((void *)(noted + 1) > (void *)(long)skb->data || noted->magic != NOTE)
		return error_from_beyond(skb);
	note = *noted;
	checksum = checksum_of(note.protocol, note.transport);
	flags = flags_of(note.protocol, note.is_v6);
	address_of(&inside, note.container, note.is_v6);
	if (note.is_news && remember(skb, &note))
		return TC_ACT_SHOT;
	if (one_hop_less(skb, note.is_v6) || rewrite(skb, note.is_v6, 0, &inside, checksum, flags) ||
	    rewrite_port(skb, note.transport, note.client_port, checksum, flags) ||
	    rewrite_port(skb, note.transport + 2, note.port, checksum, flags))
		return TC_ACT_SHOT;
	return hand_over(skb, note.container);
}

static __always_inline int clients_address(struct __sk_buff *skb, const struct packet *packet, struct address6 *client)
{
	if (packet->tuple.is_v6)
		return bpf_skb_load_bytes(skb, ETHERNET + 24, client, sizeof(*client)) ? -1 : 0;
	mapped(client, packet->tuple.destination);
	return 0;
}

SEC("classifier")
int out_of_host(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct answer_key key = {};
	struct answer_fragments part = {};
	struct answer *answer;
	__u32 checksum = 0;
	__u64 flags;

	if (parse(skb, &packet) != PARSED || !packet.from_ours || packet.to_ours || packet.has_options)
		return TC_ACT_UNSPEC;
	if (packet.tuple.protocol != TCP && packet.tuple.protocol != UDP)
		return TC_ACT_UNSPEC;
	part.container = packet.tuple.source;
	part.client = packet.tuple.destination;
	part.id = packet.fragment_id;
	part.is_v6 = packet.tuple.is_v6;
	if (packet.fragment == LATER_FRAGMENT) {
		answer = bpf_map_lookup_elem(&answer_parts, &part);
	} else {
		if (clients_address(skb, &packet, &key.client))
			return TC_ACT_UNSPEC;
		key.container = packet.tuple.source;
		key.client_port = packet.tuple.destination_port;
		key.port = packet.tuple.source_port;
		key.protocol = packet.tuple.protocol;
		key.is_v6 = packet.tuple.is_v6;
		answer = bpf_map_lookup_elem(&answered, &key);
	}
	if (!answer)
		return TC_ACT_UNSPEC;
	/* What the container itself began long after is not an answer. */
	if (packet.tuple.protocol == UDP && bpf_ktime_get_ns() - answer->seen_ns > CLOSED_SILENCE)
		return TC_ACT_UNSPEC;
	if (packet.tuple.protocol == TCP && (packet.tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return TC_ACT_UNSPEC;
	if (bpf_ktime_get_ns() - answer->seen_ns > SECOND)
		answer->seen_ns = bpf_ktime_get_ns();
	if (packet.fragment == FIRST_FRAGMENT) {
		struct answer copy = *answer;

		bpf_map_update_elem(&answer_parts, &part, &copy, BPF_ANY);
	}
	flags = flags_of(packet.tuple.protocol, packet.tuple.is_v6);
	if (packet.fragment != LATER_FRAGMENT) {
		checksum = checksum_of(packet.tuple.protocol, packet.transport);
		if (rewrite_port(skb, packet.transport, answer->host_port, checksum, flags) ||
		    rewrite_port(skb, packet.transport + 2, answer->client_port, checksum, flags))
			return TC_ACT_SHOT;
	}
	if (one_hop_less(skb, packet.tuple.is_v6) ||
	    rewrite(skb, packet.tuple.is_v6, 1, &answer->host, checksum, flags))
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(answer->uplink, 0, 0, 0);
}
