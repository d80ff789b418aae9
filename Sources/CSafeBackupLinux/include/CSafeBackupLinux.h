#pragma once
// Why each shim exists: (1) `import Glibc` is made without _GNU_SOURCE and does not show it, or
// (2) the C library has no wrapper for it. Every function returns -1 and sets errno like the call it wraps.
#include "clock.h"
#include "events.h"
#include "files.h"
#include "memory.h"
#include "threads.h"
#include "volumes.h"
#include "xattrs.h"
