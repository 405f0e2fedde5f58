#pragma once

/// Makes the file `data` known, which this process maps: an access to it that faults is noted in a file `note` in
/// `directory`. All three are absolute; `data` is as the kernel names it, without links.
/// Returns a number for `bifrost_fault_forget`, or -1: there are too many already, or a path is too long.
int bifrost_fault_watch(const char *directory, const char *data, const char *note);

void bifrost_fault_forget(int number);

/// From now on a SIGBUS or SIGSEGV of this process leaves notes before it ends as it would have without. Once.
void bifrost_fault_install(void);

/// From now on this process has a few seconds to leave a note, and is ended by SIGALRM then: a disk may hang. For a signal
/// handler, or a process that is about to end; changes what the process does at SIGALRM.
void bifrost_fault_limit_time(void);

/// The note was left.
void bifrost_fault_lift_limit(void);
