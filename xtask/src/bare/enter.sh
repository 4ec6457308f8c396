# Run by `sh -c` in fresh namespaces: makes the folder $1 the root of a small machine and runs the rest in it.
#   root target-folder registry-folder program [argument…]     (a folder that is not there is not shared)
# Says "entered" once its network namespace can be found, and waits for a line before it needs the network.
set -eu
root=$1 target=$2 registry=$3
shift 3
echo entered
read -r _
hostname bare
ip link set lo up
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
mount --bind /dev "$root/dev"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"

# What is built and fetched here is seen there; what is written there stays there.
share() {
    [ -d "$1" ] || return 0
    mkdir -p "$2" "$3/upper" "$3/work"
    mount -t overlay -o "lowerdir=$1,upperdir=$3/upper,workdir=$3/work" overlay "$2"
}
share "$target" "$root/root/coppice/target" "$root/../target"
share "$registry" "$root/root/.cargo/registry" "$root/../registry"

cd "$root"
pivot_root . mnt
umount -l mnt
cd /
# No HOME, no locale, no terminal: as a program started by nobody in particular.
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" </dev/null 2>&1
