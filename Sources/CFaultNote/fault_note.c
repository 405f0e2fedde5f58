// Says which mapped file it was, when an access to it ends the process: on standard error, and in a note beside the file
// that the next start finds. Owns the handlers of SIGBUS and SIGSEGV; judges nothing about the file.
//
// The handler calls only what POSIX allows in one (open, read, write, fsync, close, sigaction, alarm, pause), takes its
// memory from below, and does not care what the rest of the process holds. It is C because Swift promises none of that.
//
//   SIGBUS    the kernel can't give the page: a sector that can't be read, a file that was cut off. The address lies in
//             the map of one file, and that file gets the note. Elsewhere it is nobody's of these.
//   SIGSEGV   what was read led somewhere else. The address says whose it was only if it is in a map; otherwise all
//             files get a note, and whoever finds one looks.
#define _GNU_SOURCE
#include "cfaultnote.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define FILES_MAX 32

struct watched {
    // 0 free, 1 being written, 2 known.
    atomic_int state;
    char directory[PATH_MAX];
    char data[PATH_MAX];
    char note[PATH_MAX];
};

static struct watched files[FILES_MAX];
static struct sigaction earlier_bus, earlier_segv;
static atomic_flag installed = ATOMIC_FLAG_INIT;
static atomic_flag noting = ATOMIC_FLAG_INIT;

int bifrost_fault_watch(const char *directory, const char *data, const char *note) {
    if (strlen(directory) >= PATH_MAX || strlen(data) >= PATH_MAX || strlen(note) >= PATH_MAX) return -1;
    for (int i = 0; i < FILES_MAX; i++) {
        int free = 0;
        if (!atomic_compare_exchange_strong(&files[i].state, &free, 1)) continue;
        strcpy(files[i].directory, directory);
        strcpy(files[i].data, data);
        strcpy(files[i].note, note);
        atomic_store(&files[i].state, 2);
        return i;
    }
    return -1;
}

void bifrost_fault_forget(int number) {
    if (number >= 0 && number < FILES_MAX) atomic_store(&files[number].state, 0);
}

// MARK: Text, of one thread at a time

struct text {
    size_t length;
    char bytes[2 * PATH_MAX];
};
static struct text said;

static void say(const char *words) {
    while (*words && said.length < sizeof said.bytes) said.bytes[said.length++] = *words++;
}

static void say_number(uint64_t value, unsigned base) {
    char digits[24];
    size_t count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    while (count && said.length < sizeof said.bytes) said.bytes[said.length++] = digits[--count];
}

static void put(int descriptor) {
    size_t from = 0;
    while (from < said.length) {
        ssize_t count = write(descriptor, said.bytes + from, said.length - from);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) break;
        from += (size_t)count;
    }
}

// With no descriptor left, that of standard input: nobody reads any more.
static int open_somehow(const char *path, int flags) {
    int descriptor = open(path, flags | O_CLOEXEC, 0600);
    if (descriptor >= 0 || errno != EMFILE) return descriptor;
    close(STDIN_FILENO);
    return open(path, flags | O_CLOEXEC, 0600);
}

// MARK: Where an address belongs

static uint64_t hexadecimal(const char **place) {
    uint64_t value = 0;
    for (;; (*place)++) {
        char c = **place;
        if (c >= '0' && c <= '9') value = value << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f') value = value << 4 | (uint64_t)(c - 'a' + 10);
        else return value;
    }
}

// start-end flags offset device inode   path
static struct watched *owner(const char *line, uint64_t address, uint64_t *offset) {
    const char *place = line;
    uint64_t start = hexadecimal(&place);
    if (*place++ != '-') return NULL;
    uint64_t end = hexadecimal(&place);
    if (address < start || address >= end || *place++ != ' ') return NULL;
    while (*place && *place != ' ') place++;
    if (*place++ != ' ') return NULL;
    *offset = hexadecimal(&place) + (address - start);
    const char *path = strchr(place, '/');
    if (!path) return NULL;
    for (int i = 0; i < FILES_MAX; i++)
        if (atomic_load(&files[i].state) == 2 && strcmp(files[i].data, path) == 0) return &files[i];
    return NULL;
}

// The maps change while an environment grows, so they are looked at only now.
static struct watched *find(uint64_t address, uint64_t *offset) {
    static char line[PATH_MAX + 128], block[4096];
    size_t length = 0;
    struct watched *found = NULL;
    int maps = open_somehow("/proc/self/maps", O_RDONLY);
    if (maps < 0) return NULL;
    while (!found) {
        ssize_t count = read(maps, block, sizeof block);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) break;
        for (ssize_t i = 0; i < count && !found; i++) {
            if (block[i] == '\n') {
                line[length] = 0;
                found = owner(line, address, offset);
                length = 0;
            } else if (length < sizeof line - 1) {
                line[length++] = block[i];
            }
        }
    }
    close(maps);
    return found;
}

// MARK: Notes

// A note that is there stays. Whether its text fits on the disk does not matter: that it is there says enough.
static void leave_note(const struct watched *file) {
    int note = open_somehow(file->note, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW);
    if (note < 0) return;
    put(note);
    fsync(note);
    close(note);
    int directory = open_somehow(file->directory, O_RDONLY | O_DIRECTORY);
    if (directory < 0) return;
    fsync(directory);
    close(directory);
}

// What the note is written to may be the disk that fails, and what is said go to somebody who does not read.
#define NOTE_SECONDS 5

void bifrost_fault_limit_time(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = SIG_DFL;
    sigemptyset(&action.sa_mask);
    sigaction(SIGALRM, &action, NULL);
    // Threads of a pool may have blocked it all.
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
    alarm(NOTE_SECONDS);
}

void bifrost_fault_lift_limit(void) { alarm(0); }

static void note(int number, uint64_t address) {
    const char *name = number == SIGBUS ? "SIGBUS" : "SIGSEGV";
    uint64_t offset = 0;
    struct watched *file = find(address, &offset);
    if (file) {
        say("bifrost: ");
        say(file->data);
        say(": a page can't be read (");
        say(name);
        say(" at offset ");
        say_number(offset, 10);
        say("); the next start looks through the file\n");
        put(STDERR_FILENO);
        leave_note(file);
    } else if (number == SIGSEGV) {
        say("bifrost: SIGSEGV at address 0x");
        say_number(address, 16);
        say(", in none of the files; a damaged page may have led there, and the next start looks through them\n");
        put(STDERR_FILENO);
        for (int i = 0; i < FILES_MAX; i++)
            if (atomic_load(&files[i].state) == 2) leave_note(&files[i]);
    }
}

static void on_fault(int number, siginfo_t *information, void *context) {
    (void)context;
    if (information->si_code <= 0) {
        // One that somebody sent says nothing about a page.
        sigaction(number, number == SIGBUS ? &earlier_bus : &earlier_segv, NULL);
        raise(number);
        return;
    }
    // Another thread is at it, and ends the process.
    if (atomic_flag_test_and_set(&noting))
        for (;;) pause();
    bifrost_fault_limit_time();
    note(number, (uint64_t)(uintptr_t)information->si_addr);
    // What comes next may have a backtrace to write.
    bifrost_fault_lift_limit();
    // What was done about these signals before, as if nothing had been here: the access faults again behind this.
    sigaction(SIGBUS, &earlier_bus, NULL);
    sigaction(SIGSEGV, &earlier_segv, NULL);
}

void bifrost_fault_install(void) {
    if (atomic_flag_test_and_set(&installed)) return;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &earlier_bus);
    sigaction(SIGSEGV, &action, &earlier_segv);
}
