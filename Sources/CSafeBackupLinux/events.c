#include "events.h"
#include <poll.h>
#include <sys/eventfd.h>

int sb_eventfd(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

int sb_wait_readable(int first, int second, int timeout_milliseconds) {
    struct pollfd descriptors[2] = {{.fd = first, .events = POLLIN}, {.fd = second, .events = POLLIN}};
    int ready = poll(descriptors, 2, timeout_milliseconds);
    if (ready <= 0) return ready;
    return (descriptors[0].revents ? 1 : 0) | (descriptors[1].revents ? 2 : 0);
}
