#include "threads.h"
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
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

static _Thread_local int64_t slot;
int64_t sb_thread_slot(void) { return slot; }
void sb_set_thread_slot(int64_t value) { slot = value; }

void sb_trim_memory(void) { malloc_trim(0); }
