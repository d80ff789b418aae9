#pragma once
#include <stdint.h>

int sb_eventfd(void);
/// Waits until one of the two descriptors can be read. Returns a bit mask: 1 = first, 2 = second; 0 on time-out; -1 with errno.
int sb_wait_readable(int first, int second, int timeout_milliseconds);
