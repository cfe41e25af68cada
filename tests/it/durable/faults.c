/* Loaded before the C library into a node under test: while the file named by TRISHULA_TEST_FAULT is there, the files of
 * its store fail as that file says: "sync": fsync says EIO; "readonly": nothing can be written or opened for writing;
 * "check": the full check of the start waits until the file is gone; "slow": fsync takes 2 seconds more.
 * Each time that the database is opened for writing, a line is added to the file named by TRISHULA_TEST_OPENS. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

static int is_fault(const char *kind) {
    const char *flag = getenv("TRISHULA_TEST_FAULT");
    int fd = flag ? REAL(open)(flag, O_RDONLY) : -1;
    char said[16] = {0};
    if (fd < 0) return 0;
    ssize_t length = REAL(read)(fd, said, sizeof said - 1);
    close(fd);
    return length > 0 && strcmp(said, kind) == 0;
}

static int is_store(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "/node.sqlite") != NULL;
}

static int fails(int fd) { return is_store(fd) && is_fault("readonly") ? (errno = EROFS, 1) : 0; }

static void check_waits(void) {
    char thread[16] = {0};
    prctl(PR_GET_NAME, thread);
    if (strcmp(thread, "store.check") != 0) return;
    while (is_fault("check")) usleep(5000);
}

ssize_t read(int fd, void *to, size_t size) { return check_waits(), REAL(read)(fd, to, size); }

ssize_t pread(int fd, void *to, size_t size, off_t at) { return check_waits(), REAL(pread)(fd, to, size, at); }

ssize_t pread64(int fd, void *to, size_t size, off64_t at) { return check_waits(), REAL(pread64)(fd, to, size, at); }

static int sync_fails(int fd) {
    if (!is_store(fd)) return 0;
    if (is_fault("slow")) usleep(2000 * 1000);
    return is_fault("sync") ? (errno = EIO, 1) : 0;
}

int fsync(int fd) { return sync_fails(fd) ? -1 : REAL(fsync)(fd); }

int fdatasync(int fd) { return sync_fails(fd) ? -1 : REAL(fdatasync)(fd); }

ssize_t write(int fd, const void *from, size_t size) { return fails(fd) ? -1 : REAL(write)(fd, from, size); }

ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
    return fails(fd) ? -1 : REAL(pwrite)(fd, from, size, at);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    return fails(fd) ? -1 : REAL(pwrite64)(fd, from, size, at);
}

int ftruncate(int fd, off_t size) { return fails(fd) ? -1 : REAL(ftruncate)(fd, size); }

int ftruncate64(int fd, off64_t size) { return fails(fd) ? -1 : REAL(ftruncate64)(fd, size); }

static int opened(const char *path, int flags) {
    const char *name = strrchr(path, '/');
    if ((flags & O_ACCMODE) == O_RDONLY || !name || strncmp(name, "/node.sqlite", 12) != 0) return 0;
    if (is_fault("readonly")) return errno = EROFS, -1;
    const char *opens = getenv("TRISHULA_TEST_OPENS");
    int fd = opens && strcmp(name, "/node.sqlite") == 0 ? REAL(open)(opens, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
    if (fd >= 0) {
        ssize_t ignored = REAL(write)(fd, "opened\n", 7);
        (void)ignored;
        close(fd);
    }
    return 0;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = va_arg(more, mode_t);                                                                            \
        va_end(more);                                                                                                  \
        return opened(path, flags) < 0 ? -1 : REAL(name)(path, flags, mode);                                           \
    }

OPEN(open)
OPEN(open64)
