#pragma once
#include <errno.h>
#include <sqlite3.h>
#include <sys/mman.h>

// sqlite3_config and sqlite3_db_config are variadic, which Swift does not import.
static inline int safebackup_sqlite3_forgo_statistics(void) {
    return sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

static inline int safebackup_sqlite3_enable_defensive(sqlite3 *db) {
    return sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)0);
}

// While on, closing the last connection leaves the -wal as it is, so that a look at a file changes nothing of it.
static inline int safebackup_sqlite3_keep_wal_on_close(sqlite3 *db, int on) {
    return sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, on, (int *)0);
}

// SQLITE_FCNTL_PERSIST_WAL takes a pointer to an int: -wal and -shm survive a close.
static inline int safebackup_sqlite3_persist_wal(sqlite3 *db) {
    int on = 1;
    return sqlite3_file_control(db, "main", SQLITE_FCNTL_PERSIST_WAL, &on);
}

// Gives the first regions of the write-ahead log's index (the -shm, 32 KiB each) their blocks on the disk. SQLite itself
// makes the file longer by one byte in each 4 KiB: where a block is smaller, or the file system copies on write, the
// rest is a hole, and writing to it through the mapping on a full disk ends the process by SIGBUS.
// Returns SQLITE_FULL where there is no room; SQLITE_OK also where this kernel (before 5.14) or this VFS cannot tell.
// See: man 2 madvise, MADV_POPULATE_WRITE.
static inline int safebackup_sqlite3_reserve_index(sqlite3 *db, int regions) {
    enum { size = 32768, populate = 23 };
    sqlite3_file *file = 0;
    int code = sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
    if (code != SQLITE_OK) return code;
    if (!file || !file->pMethods || file->pMethods->iVersion < 2 || !file->pMethods->xShmMap) return SQLITE_OK;
    for (int region = 0; region < regions; region++) {
        void volatile *start = 0;
        code = file->pMethods->xShmMap(file, region, size, 1, &start);
        if (code != SQLITE_OK) return code;
        if (start && madvise((void *)start, size, populate) != 0 && errno == EFAULT) return SQLITE_FULL;
    }
    return SQLITE_OK;
}
