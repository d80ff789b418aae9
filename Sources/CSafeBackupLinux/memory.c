#include "memory.h"
#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void sb_configure_heap(void) {
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
}

void sb_trim_heap(void) { malloc_trim(0); }

static int unmap_code(struct dl_phdr_info *object, size_t size, void *context) {
    (void)size;
    uintptr_t page = (uintptr_t)context;
    // The kernel's own object has no file behind it.
    if (!object->dlpi_name || strstr(object->dlpi_name, "linux-vdso")) return 0;
    for (int index = 0; index < object->dlpi_phnum; index++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[index];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X) || (part->p_flags & PF_W)) continue;
        uintptr_t start = (object->dlpi_addr + part->p_vaddr) & ~(page - 1);
        uintptr_t end = (object->dlpi_addr + part->p_vaddr + part->p_memsz + page - 1) & ~(page - 1);
        // Where it is refused the pages stay as they are.
        madvise((void *)start, end - start, MADV_DONTNEED);
    }
    return 0;
}

void sb_unmap_code(void) { dl_iterate_phdr(unmap_code, (void *)(uintptr_t)sysconf(_SC_PAGESIZE)); }
