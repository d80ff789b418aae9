#include "failing_vfs.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

struct failing_vfs {
    sqlite3_vfs base;
    sqlite3_vfs *real;
    pthread_mutex_t lock;
    int operations, nth, code, forever, torn, seen, fired;
    char name[64];
};

typedef struct {
    sqlite3_file base;
    failing_vfs *vfs;
    sqlite3_file *real;
} failing_file;

static int next_code(failing_vfs *vfs, int operation) {
    int code = SQLITE_OK;
    pthread_mutex_lock(&vfs->lock);
    if (vfs->nth && (vfs->operations & operation)) {
        vfs->seen++;
        if (vfs->seen == vfs->nth || (vfs->forever && vfs->seen > vfs->nth)) {
            vfs->fired++;
            code = vfs->code;
        }
    }
    pthread_mutex_unlock(&vfs->lock);
    return code;
}

#define REAL(f) (((failing_file *)(f))->real)
#define VFS(f) (((failing_file *)(f))->vfs)
#define CALL(f, method, ...) REAL(f)->pMethods->method(REAL(f), ##__VA_ARGS__)

static int f_close(sqlite3_file *f) { return CALL(f, xClose); }
static int f_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) {
    int code = next_code(VFS(f), FAILING_READ);
    return code ? code : CALL(f, xRead, p, n, at);
}
static int f_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at) {
    int code = next_code(VFS(f), FAILING_WRITE);
    if (!code) return CALL(f, xWrite, p, n, at);
    if (VFS(f)->torn) (void)CALL(f, xWrite, p, n / 2, at);
    return code;
}
static int f_truncate(sqlite3_file *f, sqlite3_int64 size) {
    int code = next_code(VFS(f), FAILING_TRUNCATE);
    return code ? code : CALL(f, xTruncate, size);
}
static int f_sync(sqlite3_file *f, int flags) {
    int code = next_code(VFS(f), FAILING_SYNC);
    return code ? code : CALL(f, xSync, flags);
}
static int f_size(sqlite3_file *f, sqlite3_int64 *size) { return CALL(f, xFileSize, size); }
static int f_lock(sqlite3_file *f, int level) { return CALL(f, xLock, level); }
static int f_unlock(sqlite3_file *f, int level) { return CALL(f, xUnlock, level); }
static int f_reserved(sqlite3_file *f, int *out) { return CALL(f, xCheckReservedLock, out); }
static int f_control(sqlite3_file *f, int op, void *p) { return CALL(f, xFileControl, op, p); }
static int f_sector(sqlite3_file *f) { return CALL(f, xSectorSize); }
static int f_device(sqlite3_file *f) { return CALL(f, xDeviceCharacteristics); }
static int f_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **p) {
    return CALL(f, xShmMap, page, size, extend, p);
}
static int f_shm_lock(sqlite3_file *f, int at, int n, int flags) { return CALL(f, xShmLock, at, n, flags); }
static void f_shm_barrier(sqlite3_file *f) { CALL(f, xShmBarrier); }
static int f_shm_unmap(sqlite3_file *f, int remove) { return CALL(f, xShmUnmap, remove); }

static const sqlite3_io_methods methods = {
    2,          f_close,   f_read,     f_write,    f_truncate,  f_sync,     f_size,        f_lock,     f_unlock,
    f_reserved, f_control, f_sector,   f_device,   f_shm_map,   f_shm_lock, f_shm_barrier, f_shm_unmap, 0, 0,
};

static failing_vfs *of(sqlite3_vfs *v) { return (failing_vfs *)v->pAppData; }

static int v_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out) {
    failing_file *file = (failing_file *)f;
    memset(file, 0, sizeof *file);
    file->vfs = of(v);
    file->real = (sqlite3_file *)(file + 1);
    int code = of(v)->real->xOpen(of(v)->real, name, file->real, flags, out);
    // A failed open may still need a close. See: sqlite3_io_methods.
    file->base.pMethods = file->real->pMethods ? &methods : 0;
    return code;
}
static int v_delete(sqlite3_vfs *v, const char *name, int sync) {
    return of(v)->real->xDelete(of(v)->real, name, sync);
}
static int v_access(sqlite3_vfs *v, const char *name, int flags, int *out) {
    return of(v)->real->xAccess(of(v)->real, name, flags, out);
}
static int v_full(sqlite3_vfs *v, const char *name, int n, char *out) {
    return of(v)->real->xFullPathname(of(v)->real, name, n, out);
}
static int v_random(sqlite3_vfs *v, int n, char *out) { return of(v)->real->xRandomness(of(v)->real, n, out); }
static int v_sleep(sqlite3_vfs *v, int us) { return of(v)->real->xSleep(of(v)->real, us); }
static int v_time(sqlite3_vfs *v, double *out) { return of(v)->real->xCurrentTime(of(v)->real, out); }
static int v_error(sqlite3_vfs *v, int n, char *out) { return of(v)->real->xGetLastError(of(v)->real, n, out); }

failing_vfs *failing_vfs_register(const char *name) {
    failing_vfs *vfs = calloc(1, sizeof *vfs);
    if (!vfs) return 0;
    vfs->real = sqlite3_vfs_find(0);
    pthread_mutex_init(&vfs->lock, 0);
    strncpy(vfs->name, name, sizeof vfs->name - 1);
    vfs->base.iVersion = 1;
    vfs->base.szOsFile = (int)sizeof(failing_file) + vfs->real->szOsFile;
    vfs->base.mxPathname = vfs->real->mxPathname;
    vfs->base.zName = vfs->name;
    vfs->base.pAppData = vfs;
    vfs->base.xOpen = v_open;
    vfs->base.xDelete = v_delete;
    vfs->base.xAccess = v_access;
    vfs->base.xFullPathname = v_full;
    vfs->base.xRandomness = v_random;
    vfs->base.xSleep = v_sleep;
    vfs->base.xCurrentTime = v_time;
    vfs->base.xGetLastError = v_error;
    if (sqlite3_vfs_register(&vfs->base, 0) != SQLITE_OK) {
        free(vfs);
        return 0;
    }
    return vfs;
}

void failing_vfs_unregister(failing_vfs *vfs) {
    sqlite3_vfs_unregister(&vfs->base);
    pthread_mutex_destroy(&vfs->lock);
    free(vfs);
}

void failing_vfs_plan(failing_vfs *vfs, int operations, int nth, int code, int forever, int torn) {
    pthread_mutex_lock(&vfs->lock);
    vfs->operations = operations;
    vfs->nth = nth;
    vfs->code = code;
    vfs->forever = forever;
    vfs->torn = torn;
    vfs->seen = vfs->fired = 0;
    pthread_mutex_unlock(&vfs->lock);
}

int failing_vfs_fired(failing_vfs *vfs) {
    pthread_mutex_lock(&vfs->lock);
    int fired = vfs->fired;
    pthread_mutex_unlock(&vfs->lock);
    return fired;
}
