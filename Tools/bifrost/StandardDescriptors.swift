// The three descriptors that a process begins with.

import Glibc

enum StandardDescriptors {
    /// Puts something in the place of those that are closed, or the next socket would take their number, and results be
    /// written into it. What stands there now can't be used either: reading and writing fail as on a closed one.
    static func occupy() {
        for (descriptor, way) in [(STDIN_FILENO, O_WRONLY), (STDOUT_FILENO, O_RDONLY), (STDERR_FILENO, O_RDONLY)]
        where fcntl(descriptor, F_GETFD) < 0 {
            // The lowest number that is free: this one, as those below it are taken.
            _ = open("/dev/null", way)
        }
    }
}
