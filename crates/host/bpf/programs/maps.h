/* What user space and the programs share. All of it is in this file: maps outlive the process that made them, and a
 * process whose copy of this file differs makes maps of its own rather than misread what it finds. */
#ifndef COPPICE_MAPS_H
#define COPPICE_MAPS_H

#include "packet.h"

/* Slots of a service's table: a prime, as Maglev's permutations ask, and 0xffff where there is no backend. */
#define SLOTS 1021
#define NO_BACKEND 0xffff

/* A container: the index of the host's end of its link. */
struct endpoint {
	__u32 link;
};

struct service {
	/* Index into `tables`. */
	__u32 table;
	__u32 backends;
};

struct table {
	/* Indices into `backends`. */
	__u16 slot[SLOTS];
};

enum flow_kind { TO_BACKEND = 1, TO_CLIENT = 2, LEFT_TO_STACK = 3 };

/* How packets with a tuple are rewritten, if they are: those to a backend get its address as destination and `port` as source port,
 * those to a client get the service's address as source and `port` as destination port. */
struct flow {
	__u64 seen_ns;
	__be32 address;
	__be16 port;
	__u8 kind;
	/* Both ends are on this bridge: delivered without the stack, both ways. */
	__u8 direct;
};

/* Two identities, the lower first. */
struct pair {
	__u32 low;
	__u32 high;
};

#define DENIED_UP 1   /* from the lower to the higher */
#define DENIED_DOWN 2 /* from the higher to the lower */

/* A connection that policy let through although it denies the way back; keyed by the tuple of its first packet. */
struct passage {
	__u64 seen_ns;
	__u32 closing;
	__u32 zero;
};

struct fragments {
	__be32 source;
	__be32 destination;
	__u32 id;
	__u8 protocol;
	__u8 is_v6;
	__u16 zero;
};

struct ports {
	__be16 source;
	__be16 destination;
};

/* Whoever is no container of this bridge: the host, and all beyond it. */
#define NOBODY 0xffffffff

/* From one identity to another, NOBODY included. */
struct direction {
	__u32 from;
	__u32 to;
};

struct traffic {
	__u64 packets;
	__u64 bytes;
	__u64 connections;
	__u64 denied;
};

struct service_traffic {
	__u64 packets_in;
	__u64 bytes_in;
	__u64 packets_out;
	__u64 bytes_out;
	__u64 connections;
};

/* Longest name that is answered, in wire form, and most addresses of one. */
#define NAME_MAX 64
#define ADDRESSES_MAX 8

struct name_key {
	/* Who sees it: 0 for all. */
	__u32 view;
	__u32 zero;
	/* In wire form and lower case; zeros after its end. */
	__u64 word[NAME_MAX / 8];
};

struct name {
	__be32 ttl;
	__u8 count4;
	__u8 count6;
	__u16 zero;
	__be32 v4[ADDRESSES_MAX];
	struct address6 v6[ADDRESSES_MAX];
};

struct scratch {
	struct name_key key;
	/* Multiple of four, and no more than bpf_csum_diff takes on older kernels. */
	__u8 bytes[508];
};

#define PINNED_MAP(name, kind, key_type, value_type, entries, flags)                                                   \
	struct {                                                                                                       \
		__uint(type, kind);                                                                                    \
		__uint(max_entries, entries);                                                                          \
		__uint(map_flags, flags);                                                                              \
		__uint(pinning, LIBBPF_PIN_BY_NAME);                                                                   \
		__type(key, key_type);                                                                                 \
		__type(value, value_type);                                                                             \
	} name SEC(".maps")

PINNED_MAP(endpoints, BPF_MAP_TYPE_HASH, __be32, struct endpoint, 4096, BPF_F_NO_PREALLOC);
PINNED_MAP(services, BPF_MAP_TYPE_HASH, __be32, struct service, 512, BPF_F_NO_PREALLOC);
PINNED_MAP(tables, BPF_MAP_TYPE_ARRAY, __u32, struct table, 1024, 0);
PINNED_MAP(backends, BPF_MAP_TYPE_ARRAY, __u32, __be32, 8192, 0);
PINNED_MAP(flows, BPF_MAP_TYPE_LRU_HASH, struct tuple, struct flow, 65536, 0);
PINNED_MAP(fragments, BPF_MAP_TYPE_LRU_HASH, struct fragments, struct ports, 1024, 0);
PINNED_MAP(identities, BPF_MAP_TYPE_HASH, __be32, __u32, 16384, BPF_F_NO_PREALLOC);
/* Of a container: the kernel's priority, and in the second byte the type of service. */
PINNED_MAP(classes, BPF_MAP_TYPE_HASH, __be32, __u32, 4096, BPF_F_NO_PREALLOC);
PINNED_MAP(denied, BPF_MAP_TYPE_HASH, struct pair, __u32, 16384, BPF_F_NO_PREALLOC);
PINNED_MAP(passages, BPF_MAP_TYPE_LRU_HASH, struct tuple, struct passage, 16384, 0);
PINNED_MAP(pair_traffic, BPF_MAP_TYPE_LRU_PERCPU_HASH, struct direction, struct traffic, 4096, 0);
PINNED_MAP(service_traffic, BPF_MAP_TYPE_LRU_PERCPU_HASH, __be32, struct service_traffic, 512, 0);
PINNED_MAP(names, BPF_MAP_TYPE_HASH, struct name_key, struct name, 16384, BPF_F_NO_PREALLOC);
PINNED_MAP(views, BPF_MAP_TYPE_HASH, __be32, __u32, 4096, BPF_F_NO_PREALLOC);
/* Answers, by family of what was asked for: A, AAAA. */
PINNED_MAP(answers_given, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, 2, 0);
PINNED_MAP(scratch_space, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct scratch, 1, 0);

#endif
