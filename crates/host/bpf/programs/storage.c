/* Reads and writes of block devices, by the control group that asked for them: how many, how much, how long.
 *
 * Counted when a request is done, for the group its first part belongs to. What the kernel writes back later for all is
 * nobody's where groups are of version 1, as the kernel itself sees it there. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* As much of the kernel's own as is read here; where it is in them is looked up when the program is loaded. */
#define KERNEL __attribute__((preserve_access_index))

struct kernfs_node {
	__u64 id;
} KERNEL;

struct cgroup {
	struct kernfs_node *kn;
} KERNEL;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
} KERNEL;

struct blkcg {
	struct cgroup_subsys_state css;
} KERNEL;

struct blkcg_gq {
	struct blkcg *blkcg;
} KERNEL;

struct bio {
	struct blkcg_gq *bi_blkg;
} KERNEL;

struct request {
	__u32 cmd_flags;
	struct bio *bio;
	__u64 start_time_ns;
} KERNEL;

#define OPERATION 0xff
#define READ 0
#define WRITE 1

/* Requests that took less than 2^n microseconds, and longer than the one before; the last has the rest. */
#define BUCKETS 24

struct direction {
	__u64 operations;
	__u64 bytes;
	__u64 microseconds;
	__u64 buckets[BUCKETS];
};

struct storage {
	struct direction of[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u64);
	__type(value, struct storage);
} storage SEC(".maps");

/* Where a new group's counters are made; too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct storage);
} nothing SEC(".maps");

static __always_inline __u32 bucket_of(__u64 microseconds)
{
	__u32 bucket = 0;

	for (int i = 0; i < BUCKETS - 1; i++)
		bucket += microseconds >= 1ULL << i;
	return bucket;
}

SEC("tp_btf/block_rq_complete")
int request_done(__u64 *arguments)
{
	struct request *request = (void *)arguments[0];
	__u64 bytes = (__u32)arguments[2];
	__u32 operation = request->cmd_flags & OPERATION, bucket, zero = 0;
	struct bio *bio = request->bio;
	struct blkcg_gq *group;
	struct storage *counted, *none;
	struct direction *direction;
	__u64 id, microseconds = 0;

	if (operation > WRITE || !bio)
		return 0;
	group = bio->bi_blkg;
	if (!group)
		return 0;
	id = group->blkcg->css.cgroup->kn->id;
	counted = bpf_map_lookup_elem(&storage, &id);
	if (!counted) {
		none = bpf_map_lookup_elem(&nothing, &zero);
		if (!none)
			return 0;
		bpf_map_update_elem(&storage, &id, none, BPF_NOEXIST);
		counted = bpf_map_lookup_elem(&storage, &id);
		if (!counted)
			return 0;
	}
	if (request->start_time_ns)
		microseconds = (bpf_ktime_get_ns() - request->start_time_ns) / 1000;
	direction = &counted->of[operation & 1];
	bucket = bucket_of(microseconds);
	asm volatile("" : "+r"(bucket));
	if (bucket >= BUCKETS)
		return 0;
	__sync_fetch_and_add(&direction->operations, 1);
	__sync_fetch_and_add(&direction->bytes, bytes);
	__sync_fetch_and_add(&direction->microseconds, microseconds);
	__sync_fetch_and_add(&direction->buckets[bucket], 1);
	return 0;
}
