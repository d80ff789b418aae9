#include "threads.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

struct start {
    void (*body)(void *);
    void *context;
    char name[16];
};

static void *run(void *argument) {
    struct start start = *(struct start *)argument;
    free(argument);
    pthread_setname_np(pthread_self(), start.name);
    start.body(start.context);
    return NULL;
}

int sb_start_thread(const char *name, void (*body)(void *), void *context) {
    struct start *start = malloc(sizeof *start);
    if (!start) return 12;
    start->body = body;
    start->context = context;
    strncpy(start->name, name, sizeof start->name - 1);
    start->name[sizeof start->name - 1] = 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    int failure = pthread_create(&thread, &attributes, run, start);
    pthread_attr_destroy(&attributes);
    if (failure) free(start);
    return failure;
}

void sb_ignore_harmful_signals(void) {
    signal(SIGPIPE, SIG_IGN);
    signal(SIGIO, SIG_IGN);
}

void sb_kill_self(void) { kill(getpid(), SIGKILL); }

void sb_lower_thread_priority(void) {
    // Of the calling thread, as both are on Linux. IOPRIO_WHO_PROCESS, IOPRIO_CLASS_IDLE. See: man 2 ioprio_set.
    syscall(SYS_ioprio_set, 1, 0, 3 << 13);
    setpriority(PRIO_PROCESS, 0, 19);
}

static _Thread_local int64_t slot;
int64_t sb_thread_slot(void) { return slot; }
void sb_set_thread_slot(int64_t value) { slot = value; }
