// Notes what a process does to its files; see CWriteRecorder.h. One lock orders all of it: a call and its note are one.

#define _GNU_SOURCE
#include "CWriteRecorder.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

// The functions that stand behind ours, looked up at first use (a library may write before our constructor runs).
#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

enum { descriptors_max = 4096, files_max = 4096, path_max = 1024 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_descriptor = -1;
static char root[path_max];
static size_t root_length;

// What stands behind a descriptor: a file's number, or a directory's name.
static struct { uint64_t file; int is_directory; char directory[256]; } open_files[descriptors_max];
// Which inode has which number; a number is never used again, an inode may be.
static struct { dev_t device; ino_t inode; uint64_t file; } files[files_max];
static size_t file_count;
static uint64_t numbers;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("BIFROST_RECORD_LOG");
    const char *directory = getenv("BIFROST_RECORD_ROOT");
    if (!path || !directory || strlen(directory) >= path_max) return;
    strcpy(root, directory);
    root_length = strlen(root);
    log_descriptor = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_descriptor < 0) abort();
}

static int is_recording(void) { return log_descriptor >= 0; }

// The name below the root, or NULL: not one of ours. The root itself is "".
static const char *name_below(const char *path) {
    if (!is_recording() || !path || strncmp(path, root, root_length) != 0) return NULL;
    path += root_length;
    if (*path && *path != '/') return NULL;
    while (*path == '/') path++;
    return path;
}

static void put(const void *bytes, size_t count) {
    const char *next = bytes;
    while (count > 0) {
        ssize_t written = REAL(write)(log_descriptor, next, count);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) abort();
        next += written;
        count -= (size_t)written;
    }
}

static void note(uint32_t kind, uint32_t flags, uint64_t file, uint64_t offset, const void *data, uint64_t bytes) {
    int saved = errno;
    struct recorder_event event = {kind, flags, file, offset, bytes};
    put(&event, sizeof event);
    if (bytes) put(data, bytes);
    errno = saved;
}

static uint64_t file_behind(int descriptor) {
    if (!is_recording() || descriptor < 0 || descriptor >= descriptors_max) return 0;
    return open_files[descriptor].file;
}

static uint32_t write_flags(int descriptor) {
    int flags = fcntl(descriptor, F_GETFL);
    return flags >= 0 && (flags & O_DSYNC) ? 1 : 0;  // O_SYNC includes O_DSYNC's bit
}

static uint64_t number_of(const struct stat *status, int is_new) {
    for (size_t position = 0; position < file_count; position++) {
        if (files[position].device == status->st_dev && files[position].inode == status->st_ino) {
            if (is_new) files[position].file = ++numbers;
            return files[position].file;
        }
    }
    if (file_count >= files_max - 1) abort();
    files[file_count].device = status->st_dev;
    files[file_count].inode = status->st_ino;
    files[file_count].file = ++numbers;
    return files[file_count++].file;
}

static int recorded_open(const char *path, int flags, mode_t mode) {
    const char *name = name_below(path);
    if (!name) return REAL(open)(path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat status;
    int was_there = lstat(path, &status) == 0;
    int descriptor = REAL(open)(path, flags, mode);
    if (descriptor >= 0 && descriptor < descriptors_max && fstat(descriptor, &status) == 0) {
        open_files[descriptor].file = 0;
        open_files[descriptor].is_directory = S_ISDIR(status.st_mode);
        if (S_ISDIR(status.st_mode)) {
            snprintf(open_files[descriptor].directory, sizeof open_files[descriptor].directory, "%s", name);
        } else if (S_ISREG(status.st_mode)) {
            uint64_t file = number_of(&status, !was_there);
            open_files[descriptor].file = file;
            if (!was_there) note(recorder_created, 0, file, 0, name, strlen(name));
            if (was_there && (flags & O_TRUNC)) note(recorder_truncated, 0, file, 0, NULL, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    return descriptor;
}

#define OPEN_BODY                                                                   \
    mode_t mode = 0;                                                                \
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {                    \
        va_list arguments;                                                          \
        va_start(arguments, flags);                                                 \
        mode = va_arg(arguments, mode_t);                                           \
        va_end(arguments);                                                          \
    }                                                                               \
    return recorded_open(path, flags, mode);

int open(const char *path, int flags, ...) { OPEN_BODY }
int open64(const char *path, int flags, ...) { OPEN_BODY }

int close(int descriptor) {
    if (!is_recording() || descriptor < 0 || descriptor >= descriptors_max) return REAL(close)(descriptor);
    pthread_mutex_lock(&lock);
    open_files[descriptor].file = 0;
    open_files[descriptor].is_directory = 0;
    int result = REAL(close)(descriptor);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t pwrite(int descriptor, const void *bytes, size_t count, off_t offset) {
    uint64_t file = file_behind(descriptor);
    if (!file) return REAL(pwrite)(descriptor, bytes, count, offset);
    pthread_mutex_lock(&lock);
    ssize_t written = REAL(pwrite)(descriptor, bytes, count, offset);
    if (written > 0) {
        note(recorder_written, write_flags(descriptor), file, (uint64_t)offset, bytes, (uint64_t)written);
    }
    pthread_mutex_unlock(&lock);
    return written;
}
ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off_t offset) {
    return pwrite(descriptor, bytes, count, offset);
}

static void note_pieces(
    int descriptor, uint64_t file, uint64_t offset, const struct iovec *pieces, int count, ssize_t written) {
    uint32_t flags = write_flags(descriptor);
    for (int piece = 0; piece < count && written > 0; piece++) {
        size_t bytes = pieces[piece].iov_len < (size_t)written ? pieces[piece].iov_len : (size_t)written;
        if (bytes) note(recorder_written, flags, file, offset, pieces[piece].iov_base, bytes);
        offset += bytes;
        written -= (ssize_t)bytes;
    }
}

ssize_t pwritev(int descriptor, const struct iovec *pieces, int count, off_t offset) {
    uint64_t file = file_behind(descriptor);
    if (!file) return REAL(pwritev)(descriptor, pieces, count, offset);
    pthread_mutex_lock(&lock);
    ssize_t written = REAL(pwritev)(descriptor, pieces, count, offset);
    note_pieces(descriptor, file, (uint64_t)offset, pieces, count, written);
    pthread_mutex_unlock(&lock);
    return written;
}
ssize_t pwritev64(int descriptor, const struct iovec *pieces, int count, off_t offset) {
    return pwritev(descriptor, pieces, count, offset);
}

ssize_t writev(int descriptor, const struct iovec *pieces, int count) {
    uint64_t file = file_behind(descriptor);
    if (!file) return REAL(writev)(descriptor, pieces, count);
    pthread_mutex_lock(&lock);
    ssize_t written = REAL(writev)(descriptor, pieces, count);
    // Afterwards, so that O_APPEND is right too.
    off_t end = lseek(descriptor, 0, SEEK_CUR);
    note_pieces(descriptor, file, (uint64_t)(end - written), pieces, count, written);
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t write(int descriptor, const void *bytes, size_t count) {
    uint64_t file = file_behind(descriptor);
    if (!file && !(is_recording() && descriptor == STDOUT_FILENO)) return REAL(write)(descriptor, bytes, count);
    pthread_mutex_lock(&lock);
    // Noted first: who reads the mark may believe it.
    if (!file) note(recorder_marked, 0, 0, 0, bytes, count);
    ssize_t written = REAL(write)(descriptor, bytes, count);
    if (file && written > 0) {
        off_t end = lseek(descriptor, 0, SEEK_CUR);
        note(recorder_written, write_flags(descriptor), file, (uint64_t)(end - written), bytes, (uint64_t)written);
    }
    pthread_mutex_unlock(&lock);
    return written;
}

int ftruncate(int descriptor, off_t size) {
    uint64_t file = file_behind(descriptor);
    if (!file) return REAL(ftruncate)(descriptor, size);
    pthread_mutex_lock(&lock);
    int result = REAL(ftruncate)(descriptor, size);
    if (result == 0) note(recorder_truncated, 0, file, (uint64_t)size, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int ftruncate64(int descriptor, off_t size) { return ftruncate(descriptor, size); }

int posix_fallocate(int descriptor, off_t offset, off_t count) {
    uint64_t file = file_behind(descriptor);
    if (!file) return REAL(posix_fallocate)(descriptor, offset, count);
    pthread_mutex_lock(&lock);
    int result = REAL(posix_fallocate)(descriptor, offset, count);
    if (result == 0) note(recorder_allocated, 0, file, (uint64_t)(offset + count), NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int posix_fallocate64(int descriptor, off_t offset, off_t count) { return posix_fallocate(descriptor, offset, count); }

int fallocate(int descriptor, int mode, off_t offset, off_t count) {
    uint64_t file = file_behind(descriptor);
    if (!file) return REAL(fallocate)(descriptor, mode, offset, count);
    // Holes and collapsed ranges are not what this recorder knows.
    if (mode & ~FALLOC_FL_KEEP_SIZE) abort();
    pthread_mutex_lock(&lock);
    int result = REAL(fallocate)(descriptor, mode, offset, count);
    if (result == 0 && mode == 0) note(recorder_allocated, 0, file, (uint64_t)(offset + count), NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int fallocate64(int descriptor, int mode, off_t offset, off_t count) {
    return fallocate(descriptor, mode, offset, count);
}

static int recorded_sync(int descriptor, int (*sync)(int)) {
    if (!is_recording() || descriptor < 0 || descriptor >= descriptors_max) return sync(descriptor);
    pthread_mutex_lock(&lock);
    int result = sync(descriptor);
    if (result == 0) {
        uint64_t file = open_files[descriptor].file;
        const char *directory = open_files[descriptor].directory;
        if (file) note(recorder_synced, 0, file, 0, NULL, 0);
        if (open_files[descriptor].is_directory) {
            note(recorder_directory_synced, 0, 0, 0, directory, strlen(directory));
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}
int fsync(int descriptor) { return recorded_sync(descriptor, REAL(fsync)); }
int fdatasync(int descriptor) { return recorded_sync(descriptor, REAL(fdatasync)); }

int msync(void *address, size_t count, int flags) {
    // Nobody here writes through a mapping of a recorded file: then the recording would lack what is synced.
    if (is_recording()) abort();
    return REAL(msync)(address, count, flags);
}

int rename(const char *old_path, const char *new_path) {
    const char *old_name = name_below(old_path);
    const char *new_name = name_below(new_path);
    if (!old_name || !new_name) return REAL(rename)(old_path, new_path);
    pthread_mutex_lock(&lock);
    int result = REAL(rename)(old_path, new_path);
    if (result == 0) {
        char names[2 * path_max];
        size_t old_length = strlen(old_name);
        size_t new_length = strlen(new_name);
        if (old_length >= path_max || new_length >= path_max) abort();
        memcpy(names, old_name, old_length + 1);
        memcpy(names + old_length + 1, new_name, new_length);
        note(recorder_renamed, 0, 0, 0, names, old_length + 1 + new_length);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path) {
    const char *name = name_below(path);
    if (!name) return REAL(unlink)(path);
    pthread_mutex_lock(&lock);
    int result = REAL(unlink)(path);
    if (result == 0) note(recorder_removed, 0, 0, 0, name, strlen(name));
    pthread_mutex_unlock(&lock);
    return result;
}
