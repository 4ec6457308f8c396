/* Which queue of a link a container's packets wait in: what leaves by the link is given the priority of its sender's
 * identity, for whatever queueing discipline the link has.
 *
 * The sender is known by its address, so this is for links that containers' packets leave with their own: the overlay
 * between nodes, not one where they are sent as the host. */
#include "maps.h"
#include "settings.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Bytes before the IP header: 14 on Ethernet, 0 on links of IP packets. */
const volatile __u32 LINK_HEADER = ETHERNET;

SEC("classifier")
int leaving(struct __sk_buff *skb)
{
	__u32 *identity, *priority;
	__be32 source;

	if (skb->protocol == bpf_htons(ETH_IPV4)) {
		if (bpf_skb_load_bytes(skb, LINK_HEADER + 12, &source, 4) || !is_ours4(source))
			return TC_ACT_UNSPEC;
	} else if (skb->protocol == bpf_htons(ETH_IPV6)) {
		struct address6 whole;

		if (bpf_skb_load_bytes(skb, LINK_HEADER + 8, &whole, sizeof(whole)) || !is_ours6(&whole))
			return TC_ACT_UNSPEC;
		source = whole.word[3];
	} else {
		return TC_ACT_UNSPEC;
	}
	identity = bpf_map_lookup_elem(&identities, &source);
	if (!identity)
		return TC_ACT_UNSPEC;
	priority = bpf_map_lookup_elem(&priorities, identity);
	if (priority)
		skb->priority = *priority;
	return TC_ACT_UNSPEC;
}
