// Reads where nothing can be read, beside two environments that are open.

import Glibc
import LMDB
import Storage

/// By number: 0 a stray pointer; 1 a page behind the end of the first environment's file; 2 and 3 the same without a
/// descriptor left; 4 a page behind the end of a file that is no environment's; 5 as 1, and nobody reads what is said.
func fault(directory: String, kind: UInt64) throws {
    Environment.noteFaults()
    var disks: [LMDBDisk] = []
    for name in ["first", "second"] {
        _ = mkdir("\(directory)/\(name)", 0o700)
        disks.append(try LMDBDisk(directory: "\(directory)/\(name)", settings: .init(mapBytes: 1 << 20)))
    }
    let key = DiskKey(table: 9)
    try disks[0].write { writer in
        try writer.put(key, count: 50_000, append: false) { $0.initializeMemory(as: UInt8.self, repeating: 7) }
    }
    var sum = 0
    if kind == 2 || kind == 3 {
        var limit = rlimit(rlim_cur: 64, rlim_max: 64)
        _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        while open("/dev/null", O_RDONLY) >= 0 {}
    }
    if kind == 5 {
        var ends: [Int32] = [0, 0]
        _ = pipe(&ends)
        let flags = fcntl(ends[1], F_GETFL)
        _ = fcntl(ends[1], F_SETFL, flags | O_NONBLOCK)
        while write(ends[1], [UInt8](repeating: 7, count: 4_096), 4_096) > 0 {}
        while write(ends[1], [7], 1) > 0 {}
        _ = fcntl(ends[1], F_SETFL, flags)
        _ = dup2(ends[1], STDERR_FILENO)
    }
    switch kind {
    case 1, 3, 5:
        try disks[0].read { reader in
            try reader.withValue(for: key) { value in
                _ = truncate("\(directory)/first/data.mdb", 8_192)
                sum = value?.reduce(0) { $0 + Int($1) } ?? 0
            }
        }
    case 4:
        let file = open("\(directory)/other", O_RDWR | O_CREAT, 0o600)
        let place = mmap(nil, 4_096, PROT_READ, MAP_SHARED, file, 0)
        sum = place.map { Int($0.load(as: UInt8.self)) } ?? 0
    default:
        let stray = UnsafeRawPointer(bitPattern: 0x1000 + UInt(directory.utf8.count) * 8)
        sum = stray.map { $0.load(as: Int.self) } ?? 0
    }
    say("read \(sum)", on: STDERR_FILENO)
    withExtendedLifetime(disks) {}
}
