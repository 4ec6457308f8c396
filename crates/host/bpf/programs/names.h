/* Questions for addresses that are answered without waking the node's DNS server: of the usual shape, for a name that
 * it gave us. All else goes up to it: whatever is odd, unknown, of another type, or over a client's rate.
 *
 * The answer is made of the question's own packet and is what the server would say, byte for byte, but for the order
 * of several addresses, which changes each time with both. */
#ifndef COPPICE_NAMES_H
#define COPPICE_NAMES_H

#include "balance.h"
#include "maps.h"
#include "settings.h"

#define DNS_PORT 53
#define DNS_HEADER 12
#define DNS_A 1
#define DNS_AAAA 28
#define DNS_OPT 41
#define DNS_IN 1
#define OPT_LENGTH 11
/* As the server does: fits any path of IPv6. */
#define DNS_PAYLOAD 1232
#define REPLY_MAX 508

struct dns_header {
	__be16 id;
	__u8 first;
	__u8 second;
	__be16 questions;
	__be16 answers;
	__be16 authorities;
	__be16 additionals;
};

/* Who asks without pause asks the server. One number for each client: when its bucket is full again. */
static __always_inline int is_over_rate(__be32 client)
{
	__u64 *place, now, full_at;

	if (!NAMES_INTERVAL_NS)
		return 0;
	now = bpf_ktime_get_ns();
	place = bpf_map_lookup_elem(&askers, &client);
	full_at = (place && *place > now ? *place : now) + NAMES_INTERVAL_NS;
	if (full_at - now > NAMES_BURST_NS)
		return 1;
	if (place)
		*place = full_at;
	else
		bpf_map_update_elem(&askers, &client, &full_at, BPF_ANY);
	return 0;
}

/* Reads the name at `at` into the scratch space's key, in lower case; its length, or 0 when it is none that we hold. The
 * key is in a map: of the stack, the verifier would follow every byte's every way. */
__noinline int read_name(struct __sk_buff *skb, __u32 at, __u32 room)
{
	__u32 next = 0, length = 0, zero = 0, count = room < NAME_MAX ? room : NAME_MAX;
	struct scratch *scratch = bpf_map_lookup_elem(&scratch_space, &zero);
	struct name_key *key;

	if (!scratch)
		return 0;
	key = &scratch->key;
	/* One check after the other, and none for zero: from what compilers make of both at once, and from "is not zero",
	 * older kernels learn nothing. */
	asm volatile("" : "+r"(count));
	if (count > NAME_MAX)
		return 0;
	asm volatile("" : "+r"(count));
	if (count < 2)
		return 0;
	__builtin_memset(key->name, 0, NAME_MAX);
	if (bpf_skb_load_bytes(skb, at, key->name, count))
		return 0;
	for (__u32 i = 0; i < NAME_MAX / 2 && !length; i++) {
		__u32 label;

		asm volatile("" : "+r"(next));
		if (next >= count || next >= NAME_MAX)
			return 0;
		label = key->name[next];
		if (label > 63)
			return 0;
		next += 1 + label;
		if (!label)
			length = next;
	}
	if (!length)
		return 0;
	/* Lengths of labels are below 64, so folding all bytes changes letters only. Without branches, again for the
	 * verifier: all ones where the condition holds. */
	for (__u32 i = 0; i < NAME_MAX; i++) {
		__u32 byte = key->name[i];
		__u32 is_letter = ((byte - 'A') - 26) >> 31 & ~(byte - 'A') >> 31;
		__u32 is_inside = (__u32)((__s32)(i - length) >> 31);

		key->name[i] = (byte | is_letter << 5) & is_inside;
	}
	return length;
}

/* The answer's header, flags as the server sets them. */
static __always_inline int write_header(struct __sk_buff *skb, __u32 at, struct dns_header *header, __u16 count,
					int has_opt)
{
	header->first = 0x84 | (header->first & 1);
	header->second = 0x80 | (header->second & 0x10);
	header->answers = bpf_htons(count);
	header->additionals = bpf_htons(has_opt);
	return bpf_skb_store_bytes(skb, at, header, sizeof(*header), 0);
}

__noinline int write_records(struct __sk_buff *skb, __u32 at, const struct name *name, int is_v6, __u32 count)
{
	struct {
		__be16 owner, type, class;
		__be32 ttl;
		__be16 length;
		__be32 address[4];
	} __attribute__((packed)) record = {
		.owner = bpf_htons(0xc000 | DNS_HEADER),
		.type = bpf_htons(is_v6 ? DNS_AAAA : DNS_A),
		.class = bpf_htons(DNS_IN),
		.length = bpf_htons(is_v6 ? 16 : 4),
	};
	__u32 first = bpf_get_prandom_u32();

	if (!name || !count)
		return -1;
	record.ttl = name->ttl;
	for (__u32 i = 0; i < ADDRESSES_MAX; i++) {
		__u32 which;

		if (i >= count)
			break;
		which = (first + i) % count;
		asm volatile("" : "+r"(which));
		if (which >= ADDRESSES_MAX)
			return -1;
		if (is_v6) {
			record.address[0] = name->v6[which].word[0];
			record.address[1] = name->v6[which].word[1];
			record.address[2] = name->v6[which].word[2];
			record.address[3] = name->v6[which].word[3];
			if (bpf_skb_store_bytes(skb, at, &record, 28, 0))
				return -1;
			at += 28;
		} else {
			record.address[0] = name->v4[which];
			if (bpf_skb_store_bytes(skb, at, &record, 16, 0))
				return -1;
			at += 16;
		}
	}
	return 0;
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The checksum of the datagram at `at`, which IPv6 wants. */
static __always_inline int write_checksum6(struct __sk_buff *skb, __u32 at, __u32 length)
{
	struct {
		struct address6 source, destination;
		__be32 length;
		__be32 protocol;
	} pseudo;
	__u32 zero = 0;
	struct scratch *scratch = bpf_map_lookup_elem(&scratch_space, &zero);
	__u16 sum;
	__s64 whole;

	if (!scratch || bpf_skb_load_bytes(skb, ETHERNET + 8, &pseudo, 32))
		return -1;
	pseudo.length = bpf_htonl(length);
	pseudo.protocol = bpf_htonl(UDP);
	whole = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	asm volatile("" : "+r"(length));
	if (length > REPLY_MAX)
		return -1;
	asm volatile("" : "+r"(length));
	if (length < 8)
		return -1;
	__builtin_memset(scratch->bytes, 0, sizeof(scratch->bytes));
	if (bpf_skb_load_bytes(skb, at, scratch->bytes, length))
		return -1;
	whole = bpf_csum_diff(0, 0, (__be32 *)scratch->bytes, REPLY_MAX, whole);
	if (whole < 0)
		return -1;
	sum = fold(whole);
	if (!sum)
		sum = 0xffff;
	return bpf_skb_store_bytes(skb, at + 6, &sum, 2, 0);
}

/* The packet's headers the other way around. */
__noinline int turn_around(struct __sk_buff *skb, const struct packet *packet, __u32 length)
{
	struct {
		__be16 source, destination, length, checksum;
	} udp = { .length = bpf_htons(length) };

	if (!packet)
		return -1;
	udp.source = packet->tuple.destination_port;
	udp.destination = packet->tuple.source_port;
	if (bpf_skb_store_bytes(skb, packet->transport, &udp, sizeof(udp), 0))
		return -1;
	if (packet->tuple.is_v6) {
		struct ipv6_header ip;
		struct address6 source;

		if (bpf_skb_load_bytes(skb, ETHERNET, &ip, sizeof(ip)))
			return -1;
		source = ip.source;
		ip.source = ip.destination;
		ip.destination = source;
		ip.payload = udp.length;
		ip.hops = 64;
		if (bpf_skb_store_bytes(skb, ETHERNET, &ip, sizeof(ip), 0))
			return -1;
		return write_checksum6(skb, packet->transport, length);
	} else {
		struct ipv4_header ip = {
			.version_and_length = 0x45,
			.total = bpf_htons(sizeof(ip) + length),
			.fragment = bpf_htons(0x4000),
			.ttl = 64,
			.protocol = UDP,
			.source = packet->tuple.destination,
			.destination = packet->tuple.source,
		};

		ip.checksum = fold(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0));
		return bpf_skb_store_bytes(skb, ETHERNET, &ip, sizeof(ip), 0);
	}
}

/* Whether the packet is a question to the node's server, worth a closer look. */
static __always_inline int is_question(const struct packet *packet)
{
	return WITH_NAMES && packet->to_ours && packet->tuple.destination == GATEWAY && packet->from_ours &&
	       packet->tuple.protocol == UDP && packet->tuple.destination_port == bpf_htons(DNS_PORT) &&
	       !packet->fragment;
}

/* Answers the question, or leaves the packet as it was: TC_ACT_UNSPEC. */
__noinline int answer(struct __sk_buff *skb, const struct packet *packet)
{
	struct scratch *scratch;
	struct dns_header header;
	struct endpoint *endpoint;
	struct name *name;
	__u32 at, room, length, end, count, whole, *view;
	__be16 kind[2], udp_length;
	__u32 zero = 0;
	int is_v6, has_opt = 0;
	__be32 client;
	struct {
		__u8 root;
		__be16 type, payload;
		__u8 extended, version, flags, zero;
		__be16 length;
	} __attribute__((packed)) opt;

	if (!packet || packet->transport != ETHERNET + (packet->tuple.is_v6 ? 40u : 20u) || skb->gso_segs > 1)
		return TC_ACT_UNSPEC;
	at = packet->transport + 8;
	if (bpf_skb_load_bytes(skb, packet->transport + 4, &udp_length, 2))
		return TC_ACT_UNSPEC;
	/* The datagram is the whole frame. */
	if (packet->transport + bpf_ntohs(udp_length) != skb->len)
		return TC_ACT_UNSPEC;
	if (bpf_skb_load_bytes(skb, at, &header, sizeof(header)))
		return TC_ACT_UNSPEC;
	/* A plain query with one question and nothing else but, perhaps, one record at its end. */
	if (header.first & ~1 || header.questions != bpf_htons(1) || header.answers || header.authorities ||
	    (header.additionals && header.additionals != bpf_htons(1)))
		return TC_ACT_UNSPEC;
	end = skb->len;
	if (end < at + DNS_HEADER + 5)
		return TC_ACT_UNSPEC;
	room = end - at - DNS_HEADER;
	scratch = bpf_map_lookup_elem(&scratch_space, &zero);
	if (!scratch)
		return TC_ACT_UNSPEC;
	length = read_name(skb, at + DNS_HEADER, room);
	if (!length || bpf_skb_load_bytes(skb, at + DNS_HEADER + length, kind, 4))
		return TC_ACT_UNSPEC;
	if (kind[1] != bpf_htons(DNS_IN) || (kind[0] != bpf_htons(DNS_A) && kind[0] != bpf_htons(DNS_AAAA)))
		return TC_ACT_UNSPEC;
	is_v6 = kind[0] == bpf_htons(DNS_AAAA);
	at += DNS_HEADER + length + 4;
	if (header.additionals) {
		__be16 option[2];

		if (bpf_skb_load_bytes(skb, at, &opt, sizeof(opt)))
			return TC_ACT_UNSPEC;
		if (opt.root || opt.type != bpf_htons(DNS_OPT) || opt.version ||
		    at + OPT_LENGTH + bpf_ntohs(opt.length) != end)
			return TC_ACT_UNSPEC;
		/* At most one option, a cookie most often, and whole. */
		if (opt.length && (bpf_skb_load_bytes(skb, at + OPT_LENGTH, option, 4) ||
				   bpf_ntohs(option[1]) + 4 != bpf_ntohs(opt.length)))
			return TC_ACT_UNSPEC;
		has_opt = 1;
	} else if (at != end) {
		return TC_ACT_UNSPEC;
	}

	client = packet->tuple.source;
	view = bpf_map_lookup_elem(&views, &client);
	scratch->key.view = view ? *view : 0;
	name = bpf_map_lookup_elem(&names, &scratch->key);
	if (!name && scratch->key.view) {
		scratch->key.view = 0;
		name = bpf_map_lookup_elem(&names, &scratch->key);
	}
	endpoint = bpf_map_lookup_elem(&endpoints, &client);
	if (!name || !endpoint)
		return TC_ACT_UNSPEC;
	count = is_v6 ? name->count6 : name->count4;
	/* That there is none has a record of its own, which the server has. */
	if (!count || count > ADDRESSES_MAX || is_over_rate(client))
		return TC_ACT_UNSPEC;

	whole = at + count * (is_v6 ? 28 : 16) + (has_opt ? OPT_LENGTH : 0);
	if (bpf_skb_change_tail(skb, whole, 0))
		return TC_ACT_UNSPEC;
	if (write_header(skb, packet->transport + 8, &header, count, has_opt) ||
	    write_records(skb, at, name, is_v6, count))
		return TC_ACT_SHOT;
	if (has_opt) {
		opt.payload = bpf_htons(DNS_PAYLOAD);
		opt.extended = 0;
		opt.flags &= 0x80;
		opt.zero = 0;
		opt.length = 0;
		if (bpf_skb_store_bytes(skb, whole - OPT_LENGTH, &opt, sizeof(opt), 0))
			return TC_ACT_SHOT;
	}
	if (turn_around(skb, packet, whole - packet->transport))
		return TC_ACT_SHOT;
	count_answer(is_v6);
	return deliver(skb, endpoint, client);
}

#endif
