/* The two programs of a node's bridge. All traffic of containers crosses the bridge's own device: what one sends comes
 * in at `from_containers`, what one is sent goes out at `to_containers`.
 *
 * They only ever say "drop", "goes there" or nothing (TC_ACT_UNSPEC: whoever is next, then the stack, with its
 * nftables rules, judges as if they were not there). */
#include "maps.h"
#include "balance.h"
#include "class.h"
#include "metrics.h"
#include "names.h"
#include "policy.h"
#include "settings.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Gives later fragments the ports of their first, and notes those of a first. */
static __always_inline void join_fragments(struct packet *packet)
{
	struct fragments key = {
		.source = packet->tuple.source,
		.destination = packet->tuple.destination,
		.id = packet->fragment_id,
		.protocol = packet->tuple.protocol,
		.is_v6 = packet->tuple.is_v6,
	};
	struct ports *known;

	if (packet->fragment == FIRST_FRAGMENT) {
		struct ports ports = {
			.source = packet->tuple.source_port,
			.destination = packet->tuple.destination_port,
		};

		bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
		return;
	}
	known = bpf_map_lookup_elem(&fragments, &key);
	if (known) {
		packet->tuple.source_port = known->source;
		packet->tuple.destination_port = known->destination;
	} else {
		packet->without_ports = 1;
	}
}

/* VLAN tags: containers have no use for them, and the stack would take some off after we looked. */
static __always_inline int is_tagged(struct __sk_buff *skb)
{
	return skb->vlan_present || skb->protocol == bpf_htons(ETH_VLAN) ||
	       skb->protocol == bpf_htons(ETH_VLAN_OUTER);
}

/* Who has an address of ours has the MAC address that belongs to it; the link's port on the bridge takes no other. */
static __always_inline int is_spoofed(struct __sk_buff *skb, const struct packet *packet)
{
	struct {
		__u8 stem[2];
		__be32 ip;
	} __attribute__((packed)) mac;

	if (!packet->from_ours)
		return 0;
	return bpf_skb_load_bytes(skb, 6, &mac, sizeof(mac)) || mac.stem[0] != MAC_STEM_0 ||
	       mac.stem[1] != MAC_STEM_1 || mac.ip != packet->tuple.source;
}

static __always_inline int opens(const struct packet *packet)
{
	return packet->tuple.protocol == TCP && (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

SEC("classifier")
int from_containers(struct __sk_buff *skb)
{
	struct packet packet = {};
	__u32 from, to;
	int parsed;

	if (is_tagged(skb))
		return TC_ACT_SHOT;
	parsed = parse(skb, &packet);
	if (parsed == NOT_IP)
		return TC_ACT_UNSPEC;
	if (parsed == MALFORMED || is_spoofed(skb, &packet))
		return TC_ACT_SHOT;
	if (WITH_POLICY && packet.has_options)
		return TC_ACT_SHOT;
	if (packet.fragment)
		join_fragments(&packet);

	if (is_question(&packet)) {
		int answered = answer(skb, &packet);

		if (answered != TC_ACT_UNSPEC)
			return answered;
	}
	if (WITH_BALANCE && packet.from_ours && packet.to_ours && packet.tuple.destination & SERVICES_BIT)
		return to_service(skb, &packet, bpf_map_lookup_elem(&services, &packet.tuple.destination));
	from = identity_of(packet.tuple.source, packet.from_ours);
	to = identity_of(packet.tuple.destination, packet.to_ours);
	if (!may_pass(skb, &packet, from, to))
		return TC_ACT_SHOT;
	count(skb, from, to, opens(&packet));
	classify(skb, &packet);
	if (WITH_BALANCE && packet.is_error)
		return error_to_client(skb, &packet);
	if (WITH_BALANCE) {
		struct flow *flow = flow_of_answer(&packet);

		if (flow && flow->direct) {
			__be32 client = client_of(&packet);
			struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints, &client);

			if (!endpoint || rewrite_answer(skb, &packet, flow))
				return TC_ACT_SHOT;
			return deliver(skb, endpoint, client);
		}
	}
	return TC_ACT_UNSPEC;
}

SEC("classifier")
int to_containers(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct flow *flow;
	__u32 from, to;

	if (is_tagged(skb) || parse(skb, &packet) != PARSED)
		return TC_ACT_UNSPEC;
	if (packet.fragment)
		join_fragments(&packet);
	from = identity_of(packet.tuple.source, packet.from_ours);
	to = identity_of(packet.tuple.destination, packet.to_ours);
	/* Of what a container sent too: rules of the stack may have given it another receiver, whose answers are to pass. */
	if (!may_pass(skb, &packet, from, to))
		return TC_ACT_SHOT;
	/* What a container sent was counted when it came. */
	if (skb->ingress_ifindex != BRIDGE)
		count(skb, from, to, opens(&packet));
	if (!WITH_BALANCE)
		return TC_ACT_UNSPEC;
	flow = flow_of_answer(&packet);
	if (flow && !flow->direct && rewrite_answer(skb, &packet, flow))
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}
