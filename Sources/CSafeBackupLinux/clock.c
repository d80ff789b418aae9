#include "clock.h"
#include <string.h>
#include <sys/timex.h>

int sb_clock_is_synchronised(void) {
    struct timex now;
    memset(&now, 0, sizeof now);
    int state = adjtimex(&now);
    if (state < 0) return -1;
    return state != TIME_ERROR && !(now.status & STA_UNSYNC);
}
