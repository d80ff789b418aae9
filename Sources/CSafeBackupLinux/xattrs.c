#include "xattrs.h"
#include <sys/types.h>
#include <sys/xattr.h>

ptrdiff_t sb_list_xattrs(int descriptor, char *buffer, size_t capacity) {
    return flistxattr(descriptor, buffer, capacity);
}

ptrdiff_t sb_get_xattr(int descriptor, const char *name, void *value, size_t capacity) {
    return fgetxattr(descriptor, name, value, capacity);
}

int sb_set_xattr(int descriptor, const char *name, const void *value, size_t length) {
    return fsetxattr(descriptor, name, value, length, 0);
}

int sb_remove_xattr(int descriptor, const char *name) { return fremovexattr(descriptor, name); }
