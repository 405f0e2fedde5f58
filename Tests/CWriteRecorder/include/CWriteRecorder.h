// The log of a recorded process, as the recorder writes it and a test reads it.
//
// Preloaded into a process (LD_PRELOAD), the recorder notes every change to files below BIFROST_RECORD_ROOT in the file
// BIFROST_RECORD_LOG, in the order in which they happened, and what the process writes to its standard output between
// them. Without both variables it does nothing. It sees the calls that LMDB and this package make; a process that
// changes files by others (copy_file_range, io_uring, a shared mapping) is not recorded faithfully.

#ifndef CWRITERECORDER_H
#define CWRITERECORDER_H

#include <stdint.h>

enum recorder_event_kind {
    recorder_created = 1,        // data: name. A new, empty file of that name, under a new number.
    recorder_written = 2,        // offset, data. flags 1: the descriptor is O_SYNC or O_DSYNC.
    recorder_truncated = 3,      // offset: the new size
    recorder_allocated = 4,      // offset: the size that the file has at least
    recorder_synced = 5,         // fsync, fdatasync or msync of the file
    recorder_renamed = 6,        // data: old name, a zero byte, new name
    recorder_removed = 7,        // data: name
    recorder_directory_synced = 8,  // data: name of the directory; empty: the root
    recorder_marked = 9          // data: what went to standard output in one write
};

// Little-endian, followed by `bytes` bytes of data. Names are relative to the root.
struct recorder_event {
    uint32_t kind;
    uint32_t flags;
    uint64_t file;
    uint64_t offset;
    uint64_t bytes;
};

#endif
