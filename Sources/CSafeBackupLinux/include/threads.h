#pragma once
#include <stdint.h>

/// Runs `body(context)` on a new detached thread called `name` (at most 15 bytes). Returns 0 or an errno value.
int sb_start_thread(const char *name, void (*body)(void *), void *context);
/// Makes SIGPIPE and SIGIO harmless for the process; their default ends it.
void sb_ignore_harmful_signals(void);
/// The calling thread runs, and reads from disks, only when nobody else wants to. For good: without privileges a
/// thread's priority cannot be raised again.
void sb_lower_thread_priority(void);
/// Ends the process at once, as SIGKILL would: no handlers, no buffers written.
void sb_kill_self(void);
/// A slot of this thread alone: the number of the test's fault plan, 0 = none.
int64_t sb_thread_slot(void);
void sb_set_thread_slot(int64_t value);
