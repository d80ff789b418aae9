#pragma once
#include <stddef.h>
#include <stdint.h>

ptrdiff_t sb_list_xattrs(int descriptor, char *buffer, size_t capacity);
ptrdiff_t sb_get_xattr(int descriptor, const char *name, void *value, size_t capacity);
int sb_set_xattr(int descriptor, const char *name, const void *value, size_t length);
int sb_remove_xattr(int descriptor, const char *name);
