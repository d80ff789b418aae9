#pragma once

// An SQLite VFS that passes everything to the default one and fails what a test asks for.
typedef struct failing_vfs failing_vfs;

enum {
    FAILING_WRITE = 1,
    FAILING_SYNC = 2,
    FAILING_TRUNCATE = 4,
    FAILING_READ = 8,
};

// Registers a VFS of this name; NULL without memory. To be unregistered after its last connection is closed.
failing_vfs *failing_vfs_register(const char *name);
void failing_vfs_unregister(failing_vfs *vfs);

// From now on the nth call (from 1; 0: none) among `operations` gives the result `code` of SQLite, and with `forever`
// each later one too. A failed write with `torn` has written its first half.
void failing_vfs_plan(failing_vfs *vfs, int operations, int nth, int code, int forever, int torn);

// How many of the planned calls were failed since.
int failing_vfs_fired(failing_vfs *vfs);
