#include "volumes.h"
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

// FS_IOC_GETFSUUID of <linux/fs.h>, which Debian 12's headers do not have yet.
struct fsuuid2 {
    uint8_t length;
    uint8_t uuid[16];
};
#define SB_GETFSUUID _IOR(0x15, 0, struct fsuuid2)

int sb_volume(int descriptor, struct sb_volume *volume) {
    struct statfs s;
    if (fstatfs(descriptor, &s) != 0) return -1;
    memset(volume, 0, sizeof *volume);
    uint64_t unit = s.f_frsize ? (uint64_t)s.f_frsize : (uint64_t)s.f_bsize;
    volume->type = (int64_t)(uint32_t)s.f_type;
    memcpy(&volume->fsid, &s.f_fsid, sizeof volume->fsid);
    volume->total = s.f_blocks * unit;
    volume->available = s.f_bavail * unit;
    volume->free = s.f_bfree * unit;
    volume->inodes = s.f_files;
    volume->inodes_free = s.f_ffree;
    volume->name_limit = (uint64_t)s.f_namelen;
    volume->read_only = (s.f_flags & ST_RDONLY) ? 1 : 0;
    return 0;
}

int sb_volume_uuid(int descriptor, uint8_t uuid[16]) {
    struct fsuuid2 answer;
    memset(&answer, 0, sizeof answer);
    if (ioctl(descriptor, SB_GETFSUUID, &answer) != 0) return -1;
    if (answer.length == 0 || answer.length > 16) {
        errno = ENODATA;
        return -1;
    }
    memcpy(uuid, answer.uuid, 16);
    return answer.length;
}
