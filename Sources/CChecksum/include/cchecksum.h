#pragma once
#include <stddef.h>
#include <stdint.h>

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4) of `count` bytes, continuing from `crc` (0 to begin).
/// Uses the processor's instruction where it has one. `bytes` may be null when `count` is 0.
uint32_t bifrost_crc32c(uint32_t crc, const void *bytes, size_t count);

/// The same by table, on every processor; the instruction is tested against it.
uint32_t bifrost_crc32c_table(uint32_t crc, const void *bytes, size_t count);
