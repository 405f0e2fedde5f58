// The bytes of a host's copy of the cluster map, which a restart begins with. A format that stays.

package import Primitives
package import Ring

/// `version u32 | length u32 | crc32c u32 | ClusterMap`, little-endian; the checksum is of the map's bytes.
package enum ClusterMapFile {
    package static let version: UInt32 = 1
    private static let headerBytes = 12

    package static func encoded(_ map: ClusterMap) -> Bytes {
        var body = ByteWriter(capacity: 65_536)
        map.encode(into: &body)
        let bytes = body.take()
        var file = ByteWriter(capacity: bytes.count + headerBytes)
        file.write(version)
        file.write(UInt32(bytes.count))
        file.write(bytes.checksum)
        file.write(bytes)
        return file.take()
    }

    /// - Parameter name: the file, for errors.
    /// - Throws: `HostError` when the bytes are of a newer version or damaged; it says what to do.
    package static func decoded(_ file: Bytes, name: String) throws -> ClusterMap {
        do {
            var reader = ByteReader(file)
            let found = try reader.read(UInt32.self)
            guard found <= version else {
                throw HostError(
                    .directory, "\(name) has version \(found); this program reads \(version). Use a newer one")
            }
            guard found > 0 else { throw DecodingFailure(expected: "version 1 or later", found: "version 0") }
            let length = Int(try reader.read(UInt32.self))
            let checksum = try reader.read(UInt32.self)
            let body = try reader.readBytes(count: length)
            guard body.checksum == checksum else {
                throw DecodingFailure(expected: "checksum \(checksum)", found: "\(body.checksum)")
            }
            var bodyReader = ByteReader(body)
            return try ClusterMap(from: &bodyReader)
        } catch let failure as DecodingFailure {
            throw HostError(
                .directory,
                "\(name) is damaged (\(failure)): copy the same file from the directory of another host of the cluster")
        }
    }
}
