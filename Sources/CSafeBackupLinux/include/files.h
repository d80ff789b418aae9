#pragma once
#include <stddef.h>
#include <stdint.h>

/// What statx(2) tells of one directory entry. Times are seconds and nanoseconds since 1970.
struct sb_status {
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
    uint32_t nlink;
    uint64_t inode;
    uint64_t size;
    uint64_t blocks;       // units of 512 bytes
    uint64_t device;
    int64_t mtime_seconds;
    int64_t ctime_seconds;
    int64_t btime_seconds;
    uint32_t mtime_nanoseconds;
    uint32_t ctime_nanoseconds;
    uint32_t btime_nanoseconds;
    uint32_t has_btime;
    uint32_t is_mount_root;
};

/// Never follows a link at `path`; an empty `path` asks for the descriptor itself.
int sb_status_at(int directory, const char *path, struct sb_status *status);

/// openat2(2) with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS, and RESOLVE_NO_XDEV if asked.
int sb_open_beneath(int directory, const char *path, int flags, uint32_t mode, int stays_on_mount);

extern const int sb_o_path;
extern const int sb_o_noatime;
extern const int sb_o_direct;

int sb_rename_noreplace(int from_directory, const char *from, int to_directory, const char *to);
int sb_sync_filesystem(int descriptor);
/// Starts writeback of a range without waiting for it.
int sb_start_writeback(int descriptor, int64_t offset, int64_t length);
int64_t sb_seek_content(int descriptor, int64_t offset);
int64_t sb_seek_hole(int descriptor, int64_t offset);
/// Reserves blocks without changing the size.
int sb_reserve(int descriptor, int64_t length);

/// One batch of getdents64(2) records; 0 at the end of the directory.
ptrdiff_t sb_read_entries(int directory, void *buffer, size_t capacity);

/// Takes and at once releases a read lease: 0 = nobody has the file open for writing, else errno in -1.
int sb_probe_read_lease(int descriptor);
