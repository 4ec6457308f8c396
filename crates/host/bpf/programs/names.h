/* Questions for addresses that are answered without waking the node's DNS server: of the usual shape, for a name that
 * it gave us. All else goes up to it: whatever is odd, unknown, or of another type.
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
/* As the server does: fits any path of IPv6. */
#define DNS_PAYLOAD 1232
#define REPLY_MAX 508
/* The most bytes before a question's name. */
#define HEADERS_MAX (ETHERNET + 40 + 8 + DNS_HEADER)

/* Keeps the compiler from working the pointer out once more for the access: older kernels do not see that it is the one
 * that was checked. */
#define ONE_POINTER(pointer) asm volatile("" : "+r"(pointer))

struct dns_header {
	__be16 id;
	__u8 first;
	__u8 second;
	__be16 questions;
	__be16 answers;
	__be16 authorities;
	__be16 additionals;
};

struct udp_header {
	__be16 source, destination, length, checksum;
};

/* All that lies at a fixed place in a datagram. */
struct head {
	struct udp_header udp;
	struct dns_header dns;
};

struct asked {
	__be16 type, class;
};

struct opt {
	__u8 root;
	__be16 type, payload;
	__u8 extended, version, flags, zero;
	__be16 length;
} __attribute__((packed));

struct record4 {
	__be16 owner, type, class;
	__be32 ttl;
	__be16 length;
	__be32 address;
} __attribute__((packed));

struct record6 {
	__be16 owner, type, class;
	__be32 ttl;
	__be16 length;
	struct address6 address;
} __attribute__((packed));

struct ethernet {
	__u8 to_stem[2];
	__be32 to;
	__u8 from_stem[2];
	__be32 from;
} __attribute__((packed));

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Capital letters among eight bytes made small; others, those above 127 too, stay. */
static __always_inline __u64 lower(__u64 bytes)
{
	__u64 seven = bytes & 0x7f7f7f7f7f7f7f7fULL;
	__u64 from_a = seven + 0x3f3f3f3f3f3f3f3fULL;
	__u64 after_z = seven + 0x2525252525252525ULL;

	return bytes | ((from_a ^ after_z) & ~bytes & 0x8080808080808080ULL) >> 2;
}

/* Reads the name at `at` into the scratch space's key, for everybody; its length, or 0 when it is none that we hold. The
 * key is in a map: of the stack, the verifier would follow every byte's every way. */
__noinline int read_name(struct __sk_buff *skb, __u32 at)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 length = 0, zero = 0;
	struct scratch *scratch = bpf_map_lookup_elem(&scratch_space, &zero);
	struct name_key *key;

	asm volatile("" : "+r"(at));
	if (!scratch || at > HEADERS_MAX)
		return 0;
	for (__u32 i = 0; i < NAME_MAX / 2; i++) {
		__u8 *label;

		asm volatile("" : "+r"(length));
		if (length >= NAME_MAX)
			return 0;
		label = data + at + length;
		ONE_POINTER(label);
		if ((void *)(label + 1) > end || *label > 63)
			return 0;
		length += 1 + *label;
		if (!*label)
			break;
	}
	key = &scratch->key;
	key->view = 0;
	for (int i = 0; i < NAME_MAX / 8; i++)
		key->word[i] = 0;
	/* One check after the other: from what compilers make of both at once, older kernels learn nothing. */
	asm volatile("" : "+r"(length));
	if (length > NAME_MAX)
		return 0;
	asm volatile("" : "+r"(length));
	if (length < 2)
		return 0;
	if (bpf_skb_load_bytes(skb, at, key->word, length))
		return 0;
	/* Lengths of labels are below 64, so folding all bytes changes letters only. */
	for (int i = 0; i < NAME_MAX / 8; i++)
		key->word[i] = lower(key->word[i]);
	return length;
}

/* What stands for the name in `key` where `client` asks. No name is there both for everybody and for a view. */
static __always_inline struct name *find_name(struct name_key *key, __be32 client)
{
	struct name *name = bpf_map_lookup_elem(&names, key);
	__u32 *view;

	if (name)
		return name;
	view = bpf_map_lookup_elem(&views, &client);
	if (!view)
		return 0;
	key->view = *view;
	return bpf_map_lookup_elem(&names, key);
}

/* The checksum of the datagram at `at`, which IPv6 wants; the field is zero. */
static __always_inline int checksum6(struct __sk_buff *skb, __u32 at, __u32 length, __u16 *sum)
{
	struct {
		struct address6 source, destination;
		__be32 length;
		__be32 protocol;
	} pseudo;
	__u32 zero = 0;
	struct scratch *scratch = bpf_map_lookup_elem(&scratch_space, &zero);
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
	*sum = fold(whole);
	if (!*sum)
		*sum = 0xffff;
	return 0;
}

/* Ethernet and IP headers the other way around; the frame's bytes up to the transport header are there. */
static __always_inline void turn_around(void *data, __u32 length, __be32 client, const int over_v6)
{
	struct ethernet *ethernet = data;

	*ethernet = (struct ethernet){ { MAC_STEM_0, MAC_STEM_1 }, client, { MAC_STEM_0, MAC_STEM_1 }, GATEWAY };
	if (over_v6) {
		struct ipv6_header *ip = data + ETHERNET;
		struct address6 source = ip->source;

		ip->source = ip->destination;
		ip->destination = source;
		ip->payload = bpf_htons(length);
		ip->hops = 64;
	} else {
		struct ipv4_header *ip = data + ETHERNET;
		__u64 sum = bpf_htons(0x4500) + bpf_htons(sizeof(*ip) + length) + bpf_htons(0x4000) +
			    bpf_htons(64 << 8 | UDP);

		sum += (__u64)GATEWAY + client;
		*ip = (struct ipv4_header){
			.version_and_length = 0x45,
			.total = bpf_htons(sizeof(*ip) + length),
			.fragment = bpf_htons(0x4000),
			.ttl = 64,
			.protocol = UDP,
			.checksum = fold(sum),
			.source = GATEWAY,
			.destination = client,
		};
	}
}

enum opt_kind { WITHOUT_OPT, WITH_OPT, WITH_OPT_DNSSEC };

static __always_inline void *write_record4(void *place, void *end, const struct name *name, __u32 which)
{
	struct record4 *record = place;

	if ((void *)(record + 1) > end)
		return 0;
	*record = (struct record4){
		.owner = bpf_htons(0xc000 | DNS_HEADER),
		.type = bpf_htons(DNS_A),
		.class = bpf_htons(DNS_IN),
		.ttl = name->ttl,
		.length = bpf_htons(4),
		.address = name->v4[which],
	};
	return record + 1;
}

static __always_inline void *write_record6(void *place, void *end, const struct name *name, __u32 which)
{
	struct record6 *record = place;

	if ((void *)(record + 1) > end)
		return 0;
	*record = (struct record6){
		.owner = bpf_htons(0xc000 | DNS_HEADER),
		.type = bpf_htons(DNS_AAAA),
		.class = bpf_htons(DNS_IN),
		.ttl = name->ttl,
		.length = bpf_htons(16),
		.address = name->v6[which],
	};
	return record + 1;
}

/* Writes the name's addresses at `at`, beginning with any, and the record that ends the answer to who sent one. */
static __always_inline int write_records(struct __sk_buff *skb, __u32 at, const struct name *name, const int is_v6,
					 int opt_kind)
{
	void *place = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 first = bpf_get_prandom_u32(), count = is_v6 ? name->count6 : name->count4;

	asm volatile("" : "+r"(at));
	if (!count || at > HEADERS_MAX + NAME_MAX + sizeof(struct asked))
		return -1;
	place += at;
	ONE_POINTER(place);
	for (__u32 i = 0; i < ADDRESSES_MAX; i++) {
		__u32 which;

		if (i >= count)
			break;
		which = (first + i) % count;
		asm volatile("" : "+r"(which));
		if (which >= ADDRESSES_MAX)
			return -1;
		place = is_v6 ? write_record6(place, end, name, which) : write_record4(place, end, name, which);
		if (!place)
			return -1;
	}
	if (opt_kind != WITHOUT_OPT) {
		struct opt *opt = place;

		if ((void *)(opt + 1) > end)
			return -1;
		*opt = (struct opt){
			.type = bpf_htons(DNS_OPT),
			.payload = bpf_htons(DNS_PAYLOAD),
			.flags = opt_kind == WITH_OPT_DNSSEC ? 0x80 : 0,
		};
	}
	return 0;
}

__noinline int write_records4(struct __sk_buff *skb, __u32 at, const struct name *name, int opt_kind)
{
	return name ? write_records(skb, at, name, 0, opt_kind) : -1;
}

__noinline int write_records6(struct __sk_buff *skb, __u32 at, const struct name *name, int opt_kind)
{
	return name ? write_records(skb, at, name, 1, opt_kind) : -1;
}

/* Whether the packet is a question to the node's server, worth a closer look. */
static __always_inline int is_question(const struct packet *packet)
{
	return WITH_NAMES && packet->to_ours && packet->tuple.destination == GATEWAY && packet->from_ours &&
	       packet->tuple.protocol == UDP && packet->tuple.destination_port == bpf_htons(DNS_PORT) &&
	       !packet->fragment;
}

/* Answers the question, or leaves the packet as it was: TC_ACT_UNSPEC. */
static __always_inline int answer_at(struct __sk_buff *skb, __be32 client, const __u32 transport, const int over_v6)
{
	const __u32 name_at = transport + sizeof(struct head);
	__u32 length = read_name(skb, name_at), at, count, whole, zero = 0;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct head *head = data + transport;
	struct scratch *scratch;
	struct endpoint *endpoint;
	struct name *name;
	struct asked *asked;
	int is_v6, opt_kind = WITHOUT_OPT;

	asm volatile("" : "+r"(length));
	if (length > NAME_MAX)
		return TC_ACT_UNSPEC;
	asm volatile("" : "+r"(length));
	if (length < 2 || (void *)(head + 1) > end)
		return TC_ACT_UNSPEC;
	/* The datagram is the whole frame, and a plain query with one question and nothing else but, perhaps, one record at
	 * its end. */
	if (transport + bpf_ntohs(head->udp.length) != skb->len || head->dns.first & ~1 ||
	    head->dns.questions != bpf_htons(1) || head->dns.answers || head->dns.authorities)
		return TC_ACT_UNSPEC;
	asked = data + name_at + length;
	ONE_POINTER(asked);
	if ((void *)(asked + 1) > end || asked->class != bpf_htons(DNS_IN) ||
	    (asked->type != bpf_htons(DNS_A) && asked->type != bpf_htons(DNS_AAAA)))
		return TC_ACT_UNSPEC;
	is_v6 = asked->type == bpf_htons(DNS_AAAA);
	at = name_at + length + sizeof(*asked);
	if (head->dns.additionals == bpf_htons(1)) {
		struct opt *opt = (void *)(asked + 1);
		struct asked *option = (void *)(opt + 1);

		if ((void *)(opt + 1) > end || opt->root || opt->type != bpf_htons(DNS_OPT) || opt->version ||
		    at + sizeof(*opt) + bpf_ntohs(opt->length) != skb->len)
			return TC_ACT_UNSPEC;
		/* At most one option, a cookie most often, and whole. */
		if (opt->length &&
		    ((void *)(option + 1) > end || bpf_ntohs(option->class) + 4 != bpf_ntohs(opt->length)))
			return TC_ACT_UNSPEC;
		opt_kind = opt->flags & 0x80 ? WITH_OPT_DNSSEC : WITH_OPT;
	} else if (head->dns.additionals || at != skb->len) {
		return TC_ACT_UNSPEC;
	}

	scratch = bpf_map_lookup_elem(&scratch_space, &zero);
	endpoint = bpf_map_lookup_elem(&endpoints, &client);
	if (!scratch || !endpoint)
		return TC_ACT_UNSPEC;
	name = find_name(&scratch->key, client);
	if (!name)
		return TC_ACT_UNSPEC;
	count = is_v6 ? name->count6 : name->count4;
	/* That there is none has a record of its own, which the server has. */
	if (!count || count > ADDRESSES_MAX)
		return TC_ACT_UNSPEC;

	whole = at + count * (is_v6 ? sizeof(struct record6) : sizeof(struct record4)) +
		(opt_kind != WITHOUT_OPT ? sizeof(struct opt) : 0);
	if (bpf_skb_change_tail(skb, whole, 0))
		return TC_ACT_UNSPEC;
	if (is_v6 ? write_records6(skb, at, name, opt_kind) : write_records4(skb, at, name, opt_kind))
		return TC_ACT_SHOT;
	/* What the verifier knows of the packet is forgotten with its change. */
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	head = data + transport;
	if ((void *)(head + 1) > end)
		return TC_ACT_SHOT;
	turn_around(data, whole - transport, client, over_v6);
	head->udp.destination = head->udp.source;
	head->udp.source = bpf_htons(DNS_PORT);
	head->udp.length = bpf_htons(whole - transport);
	head->udp.checksum = 0;
	/* Flags as the server sets them. */
	head->dns.first = 0x84 | (head->dns.first & 1);
	head->dns.second = 0x80 | (head->dns.second & 0x10);
	head->dns.answers = bpf_htons(count);
	if (over_v6) {
		__u16 sum;

		if (checksum6(skb, transport, whole - transport, &sum) ||
		    bpf_skb_store_bytes(skb, transport + 6, &sum, sizeof(sum), 0))
			return TC_ACT_SHOT;
	}
	count_answer(is_v6);
	return bpf_redirect_peer(endpoint->link, 0);
}

__noinline int answer_over_v4(struct __sk_buff *skb, __be32 client)
{
	return answer_at(skb, client, ETHERNET + sizeof(struct ipv4_header), 0);
}

__noinline int answer_over_v6(struct __sk_buff *skb, __be32 client)
{
	return answer_at(skb, client, ETHERNET + sizeof(struct ipv6_header), 1);
}

static __always_inline int answer(struct __sk_buff *skb, const struct packet *packet)
{
	if (skb->gso_segs > 1)
		return TC_ACT_UNSPEC;
	if (packet->tuple.is_v6)
		return packet->transport == ETHERNET + sizeof(struct ipv6_header) ?
			       answer_over_v6(skb, packet->tuple.source) :
			       TC_ACT_UNSPEC;
	return packet->transport == ETHERNET + sizeof(struct ipv4_header) ? answer_over_v4(skb, packet->tuple.source) :
									    TC_ACT_UNSPEC;
}

#endif
