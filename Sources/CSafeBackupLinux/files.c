#include "files.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <stdio.h>

const int sb_o_path = O_PATH;
const int sb_o_noatime = O_NOATIME;
const int sb_o_direct = O_DIRECT;

int sb_status_at(int directory, const char *path, struct sb_status *status) {
    struct statx x;
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (path[0] ? 0 : AT_EMPTY_PATH);
    if (statx(directory, path, flags, STATX_BASIC_STATS | STATX_BTIME, &x) != 0) return -1;
    memset(status, 0, sizeof *status);
    status->mode = x.stx_mode;
    status->uid = x.stx_uid;
    status->gid = x.stx_gid;
    status->nlink = x.stx_nlink;
    status->inode = x.stx_ino;
    status->size = x.stx_size;
    status->blocks = x.stx_blocks;
    status->device = makedev(x.stx_dev_major, x.stx_dev_minor);
    status->mtime_seconds = x.stx_mtime.tv_sec;
    status->mtime_nanoseconds = x.stx_mtime.tv_nsec;
    status->ctime_seconds = x.stx_ctime.tv_sec;
    status->ctime_nanoseconds = x.stx_ctime.tv_nsec;
    if (x.stx_mask & STATX_BTIME) {
        status->has_btime = 1;
        status->btime_seconds = x.stx_btime.tv_sec;
        status->btime_nanoseconds = x.stx_btime.tv_nsec;
    }
    status->is_mount_root = (x.stx_attributes & STATX_ATTR_MOUNT_ROOT) ? 1 : 0;
    return 0;
}

int sb_open_beneath(int directory, const char *path, int flags, uint32_t mode, int stays_on_mount) {
    struct open_how how = {
        .flags = (uint64_t)(uint32_t)flags,
        .mode = (flags & O_CREAT) ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
                   | (stays_on_mount ? RESOLVE_NO_XDEV : 0),
    };
    return (int)syscall(SYS_openat2, directory, path, &how, sizeof how);
}

int sb_rename_noreplace(int from_directory, const char *from, int to_directory, const char *to) {
    return renameat2(from_directory, from, to_directory, to, RENAME_NOREPLACE);
}

int sb_sync_filesystem(int descriptor) { return syncfs(descriptor); }

int sb_start_writeback(int descriptor, int64_t offset, int64_t length) {
    return sync_file_range(descriptor, offset, length, SYNC_FILE_RANGE_WRITE);
}

int64_t sb_seek_content(int descriptor, int64_t offset) { return lseek(descriptor, offset, SEEK_DATA); }

int64_t sb_seek_hole(int descriptor, int64_t offset) { return lseek(descriptor, offset, SEEK_HOLE); }

int sb_reserve(int descriptor, int64_t length) { return fallocate(descriptor, FALLOC_FL_KEEP_SIZE, 0, length); }

ptrdiff_t sb_read_entries(int directory, void *buffer, size_t capacity) {
    return syscall(SYS_getdents64, directory, buffer, capacity);
}

int sb_probe_read_lease(int descriptor) {
    if (fcntl(descriptor, F_SETLEASE, F_RDLCK) != 0) return -1;
    return fcntl(descriptor, F_SETLEASE, F_UNLCK);
}
