// What a hostile program in a container tries, one attempt per sub-command. Built static by the tests.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// One line per forbidden call: its name and how the kernel answered.
static void attempt(const char *name, long result) {
    printf("%s %s\n", name, result >= 0 ? "allowed" : strerrorname_np(errno));
}

static int calls(int stay) {
    if (!stay) attempt("unshare-user", unshare(CLONE_NEWUSER));
    attempt("unshare-mount", unshare(CLONE_NEWNS));
    attempt("setns", setns(open("/proc/self/ns/mnt", O_RDONLY), 0));
    attempt("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0));
    attempt("umount", syscall(SYS_umount2, "/proc", 2));
    attempt("pivot_root", syscall(SYS_pivot_root, ".", "."));
    attempt("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    attempt("open_tree", syscall(SYS_open_tree, -100, "/", 1));
    attempt("move_mount", syscall(SYS_move_mount, -1, "", -1, "", 0));
    attempt("mount_setattr", syscall(SYS_mount_setattr, -1, "", 0, 0, 0));
    attempt("io_uring_setup", syscall(SYS_io_uring_setup, 1, 0));
    attempt("bpf", syscall(SYS_bpf, 0, 0, 0));
    attempt("keyctl", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
    attempt("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
    attempt("request_key", syscall(SYS_request_key, "user", "x", 0, 0));
    attempt("userfaultfd", syscall(SYS_userfaultfd, 0));
    attempt("perf_event_open", syscall(SYS_perf_event_open, 0, 0, -1, -1, 0));
    attempt("init_module", syscall(SYS_init_module, 0, 0, ""));
    attempt("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
    attempt("open_by_handle_at", syscall(SYS_open_by_handle_at, -100, 0, 0));
    attempt("swapon", syscall(SYS_swapon, "/tmp/x", 0));
    attempt("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    attempt("settimeofday", syscall(SYS_settimeofday, 0, 0));
    attempt("sethostname", sethostname("x", 1));
    attempt("clone-user", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    attempt("clone3", syscall(SYS_clone3, 0, 0));
    attempt("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
    attempt("alg", socket(38, SOCK_SEQPACKET, 0));
    attempt("unknown", syscall(4000));
    return 0;
}

// Ping's socket, and a port below 1024.
static int ping(void) {
    attempt("ping", socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
    attempt("port-80", bind(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address));
    return 0;
}

static int x32(void) {
    attempt("x32-getpid", syscall(0x40000000 | SYS_getpid));
    return 0;
}

static int i386(void) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20));
    printf("i386-getpid allowed\n");
    return 0;
}

static int session_keyring(void) {
    printf("%ld\n", syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -3 /* SESSION */, 0, 0, 0));
    return 0;
}

// Signals pid 1's view, for tests of init: traps TERM and says so.
static void on_term(int signal) {
    (void)signal;
    static const char text[] = "got TERM\n";
    ssize_t written = write(1, text, sizeof text - 1);
    (void)written;
    _exit(7);
}

static int trap(void) {
    signal(SIGTERM, on_term);
    printf("ready\n");
    fflush(stdout);
    for (;;) pause();
}

// Opens a file for writing and says how it went.
static int writable(const char *path) {
    attempt(path, open(path, O_WRONLY));
    return 0;
}

// Watches /proc for processes that are not of this container and tries to get hold of them.
static int hunt(int seconds) {
    time_t end = time(0) + seconds;
    long seen = 0;
    printf("hunting\n");
    fflush(stdout);
    while (time(0) < end) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        while ((entry = readdir(proc))) {
            int pid = atoi(entry->d_name);
            char path[64], target[256];
            if (pid <= 1 || pid == getpid()) continue;
            seen++;
            static const char *const files[] = {"exe", "cwd", "root"};
            for (int i = 0; i < 3; i++) {
                snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
                ssize_t len = readlink(path, target, sizeof target - 1);
                if (len <= 0) continue;
                target[len] = 0;
                // "/" is the container's own root; of "exe" it would be a file mounted by itself, as the launcher's is.
                int root = i > 0 && !strcmp(target, "/");
                if (strcmp(target, "/bin/busybox") && strcmp(target, "/probe") && !root)
                    printf("CAUGHT %s -> %s\n", path, target);
            }
            snprintf(path, sizeof path, "/proc/%d/exe", pid);
            ssize_t len = readlink(path, target, sizeof target - 1);
            int ours = len > 0;
            snprintf(path, sizeof path, "/proc/%d/mem", pid);
            int mem = open(path, O_RDWR);
            if (mem >= 0) {
                // It may have become the container's own program in between, and ended (ENOENT).
                snprintf(path, sizeof path, "/proc/%d/exe", pid);
                if (!ours && readlink(path, target, sizeof target - 1) <= 0 && errno == EACCES)
                    printf("CAUGHT mem of %d\n", pid);
                close(mem);
            }
            if (!ours && ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
                snprintf(path, sizeof path, "/proc/%d/exe", pid);
                len = readlink(path, target, sizeof target - 1);
                if (len > 0) target[len] = 0;
                // A process that just ended has no file any more (ENOENT); one that may not be read says EACCES.
                if ((len <= 0 && errno == EACCES) || (len > 0 && strcmp(target, "/bin/busybox") && strcmp(target, "/probe")))
                    printf("CAUGHT by ptrace %d\n", pid);
                ptrace(PTRACE_INTERRUPT, pid, 0, 0);
                waitpid(pid, 0, __WALL);
                ptrace(PTRACE_DETACH, pid, 0, 0);
            }
        }
        closedir(proc);
    }
    printf("saw %s\n", seen ? "processes" : "nobody");
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "calls")) return calls(argc > 2);
    if (!strcmp(what, "ping")) return ping();
    if (!strcmp(what, "euid")) return printf("%d\n", geteuid()) < 0;
    if (!strcmp(what, "x32")) return x32();
    if (!strcmp(what, "i386")) return i386();
    if (!strcmp(what, "session-keyring")) return session_keyring();
    if (!strcmp(what, "trap")) return trap();
    if (!strcmp(what, "writable")) return writable(argv[2]);
    if (!strcmp(what, "hunt")) return hunt(atoi(argv[2]));
    return 2;
}
