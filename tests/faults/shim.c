/* Counts the file operations of a process below one folder, and strikes before one.
 *
 * Loaded with LD_PRELOAD, so that what Python, C++ and Rust do is seen alike. Armed by
 * fault_arm(root, mode, at, trace), called in the process itself: a child that it starts
 * is not armed. Operations are those that change something: opening for writing,
 * writing, sizing, flushing, renaming, making, removing and locking.
 *
 * Modes: 0 counts alone; 1 kills before operation `at`; 2 kills inside it, half of a
 * write done; 3 fills the disk at it: what needs room fails with ENOSPC from there on;
 * 4 lets operation `at` alone fail with EIO. Each operation is a line of `trace`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, TEAR, FULL, BROKEN };

static char root[PATH_MAX];
static size_t root_length;
static int mode, trace = -1;
static long at, count;

void fault_arm(const char *folder, int what, long when, const char *log) {
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    mode = what;
    at = when;
    count = 0;
    trace = *log ? syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND |
                           O_CLOEXEC, 0644) : -1;
}

static int is_below(const char *path) {
    return !strncmp(path, root, root_length) &&
           (path[root_length] == '/' || !path[root_length]);
}

static const char *of_descriptor(int fd, char *out) {
    char link[64];
    if (fd == AT_FDCWD) return getcwd(out, PATH_MAX) ? out : "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = 0;
    return out;
}

static const char *absolute(int folder, const char *path, char *out) {
    if (*path == '/') return path;
    of_descriptor(folder, out);
    size_t n = strlen(out);
    snprintf(out + n, PATH_MAX - n, "/%s", path);
    return out;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* What is to happen to an operation: 0 lets it pass, 1 is half of it and death, else
 * the error to return. `needs_room`: whether a full disk refuses it. */
static int verdict(const char *name, const char *path, int needs_room) {
    if (!root_length || !is_below(path)) return 0;
    int kept = errno;
    long n = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (trace >= 0) {
        char line[PATH_MAX + 64];
        const char *tail = path + root_length;
        int size = snprintf(line, sizeof line, "%ld %s %s\n", n, name, tail);
        syscall(SYS_write, trace, line, (size_t)size);
    }
    errno = kept;
    if (mode == KILL && n == at) die();
    if (mode == TEAR && n == at) return 1;
    if (mode == FULL && n >= at && needs_room) return ENOSPC;
    if (mode == BROKEN && n == at) return EIO;
    return 0;
}

#define REAL(type, name, ...)                                                       \
    static type (*real)(__VA_ARGS__);                                                \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)
#define STRIKE(name, path, room)                                                     \
    do {                                                                             \
        int v = verdict(name, path, room);                                           \
        if (v == 1) die();                                                           \
        if (v) { errno = v; return -1; }                                             \
    } while (0)

#define CHANGES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))

#define OPEN(symbol)                                                                 \
    int symbol(const char *path, int flags, ...) {                                   \
        REAL(int, #symbol, const char *, int, ...);                                  \
        va_list rest; va_start(rest, flags);                                         \
        int permission = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;      \
        va_end(rest);                                                                \
        char where[PATH_MAX];                                                        \
        if (CHANGES(flags))                                                          \
            STRIKE("open", absolute(AT_FDCWD, path, where), flags & O_CREAT);        \
        return real(path, flags, permission);                                        \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(symbol)                                                               \
    int symbol(int folder, const char *path, int flags, ...) {                       \
        REAL(int, #symbol, int, const char *, int, ...);                             \
        va_list rest; va_start(rest, flags);                                         \
        int permission = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;      \
        va_end(rest);                                                                \
        char where[PATH_MAX];                                                        \
        if (CHANGES(flags))                                                          \
            STRIKE("open", absolute(folder, path, where), flags & O_CREAT);          \
        return real(folder, path, flags, permission);                                \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(symbol)                                                                \
    FILE *symbol(const char *path, const char *how) {                                \
        REAL(FILE *, #symbol, const char *, const char *);                           \
        char where[PATH_MAX];                                                        \
        if (strpbrk(how, "wa+")) {                                                   \
            int v = verdict("open", absolute(AT_FDCWD, path, where), 1);             \
            if (v == 1) die();                                                       \
            if (v) { errno = v; return NULL; }                                       \
        }                                                                            \
        return real(path, how);                                                      \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    char where[PATH_MAX];
    if (root_length) {
        int v = verdict("write", of_descriptor(fd, where), 1);
        if (v == 1) { real(fd, data, size / 2); die(); }
        if (v) { errno = v; return -1; }
    }
    return real(fd, data, size);
}

#define PWRITE(symbol, offset_type)                                                  \
    ssize_t symbol(int fd, const void *data, size_t size, offset_type offset) {      \
        REAL(ssize_t, #symbol, int, const void *, size_t, offset_type);              \
        char where[PATH_MAX];                                                        \
        int v = verdict("write", of_descriptor(fd, where), 1);                       \
        if (v == 1) { real(fd, data, size / 2, offset); die(); }                     \
        if (v) { errno = v; return -1; }                                             \
        return real(fd, data, size, offset);                                         \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int number) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    char where[PATH_MAX];
    int v = verdict("write", of_descriptor(fd, where), 1);
    if (v == 1) { real(fd, parts, number / 2); die(); }
    if (v) { errno = v; return -1; }
    return real(fd, parts, number);
}

#define ON_FD(symbol, name, room, signature, call)                                   \
    int symbol signature {                                                           \
        REAL(int, #symbol, ONLY signature);                                          \
        char where[PATH_MAX];                                                        \
        STRIKE(name, of_descriptor(fd, where), room);                                \
        return real call;                                                            \
    }
#define ONLY(...) __VA_ARGS__
ON_FD(fsync, "fsync", 0, (int fd), (fd))
ON_FD(fdatasync, "fsync", 0, (int fd), (fd))
ON_FD(ftruncate, "size", 1, (int fd, off_t size), (fd, size))
ON_FD(ftruncate64, "size", 1, (int fd, off64_t size), (fd, size))
ON_FD(flock, "lock", 0, (int fd, int how), (fd, how))

/* Returns the error instead of setting errno. */
#define RESERVE(symbol, offset_type)                                                 \
    int symbol(int fd, offset_type offset, offset_type size) {                       \
        REAL(int, #symbol, int, offset_type, offset_type);                           \
        char where[PATH_MAX];                                                        \
        int v = verdict("reserve", of_descriptor(fd, where), 1);                     \
        if (v == 1) die();                                                           \
        return v ? v : real(fd, offset, size);                                       \
    }
RESERVE(posix_fallocate, off_t)
RESERVE(posix_fallocate64, off64_t)

#define ON_PATH(symbol, name, folder, room, signature, call)                         \
    int symbol signature {                                                           \
        REAL(int, #symbol, ONLY signature);                                          \
        char where[PATH_MAX];                                                        \
        STRIKE(name, absolute(folder, path, where), room);                           \
        return real call;                                                            \
    }
ON_PATH(mkdir, "mkdir", AT_FDCWD, 1, (const char *path, mode_t m), (path, m))
ON_PATH(mkdirat, "mkdir", fd, 1, (int fd, const char *path, mode_t m), (fd, path, m))
ON_PATH(rmdir, "rmdir", AT_FDCWD, 0, (const char *path), (path))
ON_PATH(unlink, "unlink", AT_FDCWD, 0, (const char *path), (path))
ON_PATH(unlinkat, "unlink", fd, 0, (int fd, const char *path, int f), (fd, path, f))
ON_PATH(remove, "unlink", AT_FDCWD, 0, (const char *path), (path))
ON_PATH(truncate, "size", AT_FDCWD, 1, (const char *path, off_t n), (path, n))
ON_PATH(truncate64, "size", AT_FDCWD, 1, (const char *path, off64_t n), (path, n))

/* Named by where it goes. */
#define RENAME(symbol, folder, signature, call)                                      \
    int symbol signature {                                                           \
        REAL(int, #symbol, ONLY signature);                                          \
        char where[PATH_MAX];                                                        \
        STRIKE("rename", absolute(folder, to, where), 0);                            \
        return real call;                                                            \
    }
RENAME(rename, AT_FDCWD, (const char *from, const char *to), (from, to))
RENAME(renameat, fd, (int old, const char *from, int fd, const char *to),
       (old, from, fd, to))
RENAME(link, AT_FDCWD, (const char *from, const char *to), (from, to))
RENAME(symlink, AT_FDCWD, (const char *from, const char *to), (from, to))
