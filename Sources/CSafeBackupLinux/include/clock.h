#pragma once

/// 1: the kernel's clock is kept in step with another, 0: it is not, -1: that cannot be asked. See: man 2 adjtimex.
int sb_clock_is_synchronised(void);
