/* What user space and the programs for published ports share; see maps.h, whose rules hold here too. */
#ifndef COPPICE_PORTS_H
#define COPPICE_PORTS_H

#include "maps.h"

/* IPv4 addresses are ::ffff:a.b.c.d here. */
struct port_key {
	/* Zero: any address of this machine. */
	struct address6 address;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

/* As many as nft's maps have slots for. */
#define PORT_BACKENDS_MAX 60

struct port_backend {
	__be32 address;
	__be16 port;
	__u16 zero;
};

struct port {
	__u32 count;
	struct port_backend backend[PORT_BACKENDS_MAX];
};

/* A connection from beyond, as its client sees it. */
struct visit_key {
	struct address6 client;
	struct address6 host;
	__be16 client_port;
	__be16 host_port;
	__u8 protocol;
	__u8 zero[3];
};

struct visit {
	__u64 seen_ns;
	__be32 container;
	/* The container's, and the client's as the container sees it. */
	__be16 port;
	__be16 client_port;
};

/* The same, as the container sees it. */
struct answer_key {
	struct address6 client;
	__be32 container;
	__be16 client_port;
	__be16 port;
	__u8 protocol;
	__u8 is_v6;
	__u16 zero;
};

struct answer {
	__u64 seen_ns;
	struct address6 host;
	__be16 host_port;
	/* As the client has it. */
	__be16 client_port;
	/* Where the client came by. */
	__u32 uplink;
};

struct answer_fragments {
	__be32 container;
	/* The last word of the client's address. */
	__be32 client;
	__u32 id;
	__u32 is_v6;
};

PINNED_MAP(ports, BPF_MAP_TYPE_HASH, struct port_key, struct port, 4096, BPF_F_NO_PREALLOC);
/* This machine's addresses. */
PINNED_MAP(locals, BPF_MAP_TYPE_HASH, struct address6, __u32, 1024, BPF_F_NO_PREALLOC);
PINNED_MAP(visits, BPF_MAP_TYPE_LRU_HASH, struct visit_key, struct visit, 65536, 0);
PINNED_MAP(answered, BPF_MAP_TYPE_LRU_HASH, struct answer_key, struct answer, 65536, 0);
PINNED_MAP(answer_parts, BPF_MAP_TYPE_LRU_HASH, struct answer_fragments, struct answer, 1024, 0);

#endif
