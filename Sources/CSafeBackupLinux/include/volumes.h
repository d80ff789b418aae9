#pragma once
#include <stdint.h>

/// What statfs(2) tells of the file system below a descriptor; sizes in bytes.
struct sb_volume {
    int64_t type;          // the magic number, see man 2 statfs
    uint64_t fsid;
    uint64_t total;
    uint64_t available;    // to a process without privileges
    uint64_t free;
    uint64_t name_limit;
    uint64_t inodes;       // 0: there is no limit
    uint64_t inodes_free;
    uint32_t read_only;
};

int sb_volume(int descriptor, struct sb_volume *volume);
/// The file system's UUID (Linux 6.9 and later, file systems that have one). Returns its length (16, or less), or -1.
int sb_volume_uuid(int descriptor, uint8_t uuid[16]);
