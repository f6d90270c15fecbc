/* One fault in one operation on files below a directory: a shared object for LD_PRELOAD.
 *
 *     cc -shared -fPIC -O2 -o faultfs.so faultfs.c -ldl
 *     FAULT_DIR=/data FAULT_KIND=eio_fsync FAULT_AT=7 LD_PRELOAD=./faultfs.so program
 *
 * FAULT_DIR    directory; operations on it and below it match, nothing else is touched
 * FAULT_KIND   a name out of KINDS
 * FAULT_AT     number of the matching operation that fails, from 0; without it they are only counted
 * FAULT_LOG    file to which a line is appended when the fault fires: kind, number, path
 * FAULT_COUNT  file of 8 bytes, native order: matching operations so far; it outlives a kill
 *
 * Operations count over all threads. Which file a descriptor means is asked of the kernel
 * (/proc/self/fd) each time: a table of our own would have to follow every dup, close and accept.
 * What is passed on goes to the kernel by syscall(), so that no order of initialization matters.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* glibc has two names for one function where off_t has 64 bits; programs bind to either. */
#define ALSO(other, name) extern __typeof__(name) other __attribute__((alias(#name)))
#define EXIT_KILLED 137
#define EXIT_MISUSED 99
#define HOUR_S 3600

enum operation { /* CREATE: any open that may write */
    OPEN = 1, CREATE = 2, READ = 4, WRITE = 8, SYNC = 16, RENAME = 32, UNLINK = 64, MKDIR = 128, CLOCK = 256
};

enum effect {
    FAILS,    /* with `error`, and nothing is done */
    HALVES,   /* half of the bytes, and says so: a right program goes on from there */
    TEARS,    /* half of the bytes, and the process ends */
    LOSES,    /* a rename is reported as done and is not; the process ends where it would become durable */
    KILLS,    /* SIGKILL instead of the operation */
    TURNS,    /* the wall clock is an hour behind from now on */
};

static const struct kind { const char *name; unsigned operations; enum effect effect; int error; } KINDS[] = {
    {"eio_open", OPEN | CREATE, FAILS, EIO},
    {"eio_read", READ, FAILS, EIO},
    {"short_read", READ, HALVES, 0},
    {"eio_write", WRITE, FAILS, EIO},
    {"enospc_write", WRITE, FAILS, ENOSPC},
    {"short_write", WRITE, HALVES, 0},
    {"torn_write", WRITE, TEARS, 0},
    {"eio_fsync", SYNC, FAILS, EIO},
    {"eio_rename", RENAME, FAILS, EIO},
    {"rename_lost", RENAME, LOSES, 0},
    {"eio_unlink", UNLINK, FAILS, EIO},
    {"kill", CREATE | WRITE | SYNC | RENAME | UNLINK | MKDIR, KILLS, 0},
    {"clock_back", CLOCK, TURNS, 0},
};

static const struct kind *kind; /* none: everything passes */
static char directory[PATH_MAX];
static uint64_t fires_at = UINT64_MAX;
static const char *log_path;
static _Atomic uint64_t here;
static _Atomic uint64_t *count = &here;
static atomic_bool rename_is_lost;

static void misused(const char *what)
{
    dprintf(STDERR_FILENO, "faultfs: %s\n", what);
    _exit(EXIT_MISUSED);
}

__attribute__((constructor)) static void configure(void)
{
    const char *name = getenv("FAULT_KIND"), *below = getenv("FAULT_DIR");
    const char *at = getenv("FAULT_AT"), *counter = getenv("FAULT_COUNT");
    const struct kind *found = NULL;
    for (size_t i = 0; name && i < sizeof KINDS / sizeof *KINDS; i++)
        if (strcmp(KINDS[i].name, name) == 0)
            found = &KINDS[i];
    if (!found || !below || !realpath(below, directory))
        misused("FAULT_KIND is none of the kinds, or FAULT_DIR is not there");
    if (at)
        fires_at = strtoull(at, NULL, 10);
    log_path = getenv("FAULT_LOG");
    if (counter) {
        int fd = syscall(SYS_openat, AT_FDCWD, counter, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        void *page = fd < 0 || ftruncate(fd, sizeof *count) != 0
            ? MAP_FAILED : mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (page == MAP_FAILED)
            misused("FAULT_COUNT cannot be made");
        count = page;
        syscall(SYS_close, fd);
    }
    kind = found; /* last: what this function does itself is no operation */
}

/* --- which operations match */

static int is_below(const char *path)
{
    size_t length = strlen(directory);
    return strncmp(path, directory, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

/* The file that a descriptor means; empty where there is none. */
static void path_of(int fd, char path[PATH_MAX])
{
    char link[64] = "/proc/self/cwd";
    if (fd != AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, (size_t)PATH_MAX - 1);
    path[length > 0 ? length : 0] = '\0';
}

/* Counts an operation on `path`. True where it is the one that fails. */
static int hit(const char *path)
{
    uint64_t number = atomic_fetch_add(count, 1);
    if (number != fires_at)
        return 0;
    int how = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, fd = -1;
    if (log_path && (fd = syscall(SYS_openat, AT_FDCWD, log_path, how, 0600)) >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%s %llu %s\n", kind->name, (unsigned long long)number, path);
        syscall(SYS_write, fd, line, (size_t)length);
        syscall(SYS_close, fd);
    }
    if (kind->effect == KILLS)
        kill(getpid(), SIGKILL);
    errno = kind->error;
    return 1;
}

static int hit_fd(enum operation operation, int fd)
{
    char path[PATH_MAX];
    if (!kind || !(kind->operations & operation))
        return 0;
    path_of(fd, path);
    return is_below(path) && hit(path);
}

static int hit_at(enum operation operation, int dirfd, const char *name)
{
    char base[PATH_MAX] = "", path[2 * PATH_MAX];
    if (!kind || !(kind->operations & operation))
        return 0;
    if (name[0] != '/')
        path_of(dirfd, base);
    snprintf(path, sizeof path, "%s%s%s", base, name[0] != '/' ? "/" : "", name);
    return is_below(path) && hit(path);
}

/* How many of n bytes are read or written now: fewer where it is halved or torn, -1 where it fails. */
static ssize_t granted(enum operation operation, int fd, size_t n)
{
    int divides = kind && (kind->effect == HALVES || kind->effect == TEARS);
    if ((divides && n < 2) || !hit_fd(operation, fd)) /* no half of one byte: 0 would say "end" */
        return n;
    return divides ? (ssize_t)(n / 2) : -1;
}

/* What a write answers that was granted `now` of n bytes, if it answers. */
static ssize_t written(ssize_t result, ssize_t now, size_t n)
{
    if ((size_t)now < n && kind->effect == TEARS)
        _exit(EXIT_KILLED);
    return result;
}

/* --- the operations */

ssize_t read(int fd, void *to, size_t n)
{
    ssize_t now = granted(READ, fd, n);
    return now < 0 ? -1 : syscall(SYS_read, fd, to, now);
}

ssize_t pread(int fd, void *to, size_t n, off_t at)
{
    ssize_t now = granted(READ, fd, n);
    return now < 0 ? -1 : syscall(SYS_pread64, fd, to, now, at);
}
ALSO(pread64, pread);

ssize_t write(int fd, const void *from, size_t n)
{
    ssize_t now = granted(WRITE, fd, n);
    return now < 0 ? -1 : written(syscall(SYS_write, fd, from, now), now, n);
}

ssize_t pwrite(int fd, const void *from, size_t n, off_t at)
{
    ssize_t now = granted(WRITE, fd, n);
    return now < 0 ? -1 : written(syscall(SYS_pwrite64, fd, from, now, at), now, n);
}
ALSO(pwrite64, pwrite);

/* Cut within its first part. */
ssize_t writev(int fd, const struct iovec *parts, int number)
{
    size_t first = number > 0 ? parts[0].iov_len : 0;
    ssize_t now = granted(WRITE, fd, first);
    if (now < 0)
        return -1;
    if ((size_t)now < first)
        return written(syscall(SYS_write, fd, parts[0].iov_base, now), now, first);
    return syscall(SYS_writev, fd, parts, number);
}

static int synced(int fd, long number)
{
    struct stat found;
    if (atomic_load(&rename_is_lost) && fstat(fd, &found) == 0 && S_ISDIR(found.st_mode))
        _exit(EXIT_KILLED); /* the power fails before a rename becomes durable */
    return hit_fd(SYNC, fd) ? -1 : (int)syscall(number, fd);
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int openat(int dirfd, const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t); /* whatever it is, where flags want none */
    va_end(more);
    enum operation operation = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC) ? CREATE : OPEN;
    return hit_at(operation, dirfd, path) ? -1 : (int)syscall(SYS_openat, dirfd, path, flags, mode);
}
ALSO(openat64, openat);

int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    return openat(AT_FDCWD, path, flags, mode);
}
ALSO(open64, open);

/* The answer of a rename that is not done. */
static int missed(void)
{
    atomic_store(&rename_is_lost, kind->effect == LOSES);
    return kind->effect == LOSES ? 0 : -1;
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    return hit_at(RENAME, to_fd, to) ? missed() : (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

int renameat(int in, const char *from, int to_in, const char *to) { return renameat2(in, from, to_in, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    return hit_at(RENAME, to_fd, to) ? missed() : (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int dirfd, const char *path, int flags)
{
    return hit_at(UNLINK, dirfd, path) ? -1 : (int)syscall(SYS_unlinkat, dirfd, path, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int dirfd, const char *path, mode_t mode)
{
    return hit_at(MKDIR, dirfd, path) ? -1 : (int)syscall(SYS_mkdirat, dirfd, path, mode);
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, clock, now);
    if (kind && kind->effect == TURNS && clock == CLOCK_REALTIME) {
        hit("the wall clock");
        if (atomic_load(count) > fires_at)
            now->tv_sec -= HOUR_S;
    }
    return result;
}
