// Reading from a disk that may fail for a moment: a controller that is reset, a path that is switched. What can't be read
// is tried again before anybody concludes that it is gone.

internal import Glibc

package enum PatientRead {
    /// So often something is read that the disk says it can't read, before that counts.
    private static let attemptsMax = 4
    private static let pauseMicroseconds: UInt32 = 500_000

    /// Fills the buffer from the file, from `offset` on.
    ///
    /// - Returns: how many bytes there were, and the number of the error that ended it, or 0.
    static func fill(
        _ buffer: UnsafeMutableRawBufferPointer, from descriptor: Int32, at offset: off_t
    ) -> (count: Int, number: Int32) {
        fill(buffer, pause: { _ = usleep(pauseMicroseconds) }) { rest, done in
            let count = pread(descriptor, rest.baseAddress, rest.count, offset + off_t(done))
            return count < 0 ? (0, errno) : (count, 0)
        }
    }

    /// The same.
    ///
    /// - Parameters:
    ///   - pause: between two attempts.
    ///   - read: is given what is to be filled yet, and how much has been; says how much of it was read, or the number of
    ///     the error. 0 and 0: there is no more.
    package static func fill(
        _ buffer: UnsafeMutableRawBufferPointer, pause: () -> Void,
        read: (UnsafeMutableRawBufferPointer, Int) -> (count: Int, number: Int32)
    ) -> (count: Int, number: Int32) {
        var filled = 0
        var attempts = 1
        while filled < buffer.count {
            let (count, number) = read(UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]), filled)
            if number == EINTR { continue }
            if number == EIO, attempts < attemptsMax {
                attempts += 1
                pause()
                continue
            }
            guard number == 0, count > 0 else { return (filled, number) }
            filled += count
        }
        return (filled, 0)
    }
}
