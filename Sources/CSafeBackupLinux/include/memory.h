#pragma once

/// At most two heaps for all threads, and blocks from 128 KiB on outside of them, always.
void sb_configure_heap(void);
/// Gives free heap pages back to the system.
void sb_trim_heap(void);
/// Unmaps the pages of all loaded programs' and libraries' code. They are never written, so nothing is lost: the next
/// use of each maps it again.
void sb_unmap_code(void);
