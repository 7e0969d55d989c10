/* Another clock under a whole process (LD_PRELOAD): it runs at a rate of its own from now on, whenever the file that PARLIAMENT_TEST_CLOCK
   names says so, and the wall clock is off besides. What asks for the time sees it, and what waits in epoll or nanosleep waits by it. A wait
   on a futex lasts as long as on the true clock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct setting {
    volatile int64_t rate_millionths;
    volatile int64_t wall_ns;
};

static struct setting none = {1000000, 0};
static struct setting *setting = &none;
static int (*true_gettime)(clockid_t, struct timespec *);
static int (*true_epoll)(int, struct epoll_event *, int, int);
static int (*true_sleep)(clockid_t, int, const struct timespec *, struct timespec *);

/* By how much this process's clock is ahead: `skew` at the true time `since`, growing with `rate` - 1. */
static atomic_flag busy = ATOMIC_FLAG_INIT;
static int64_t skew, since, rate = 1000000;

__attribute__((constructor)) static void load(void) {
    true_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    true_epoll = dlsym(RTLD_NEXT, "epoll_wait");
    true_sleep = dlsym(RTLD_NEXT, "clock_nanosleep");
    const char *path = getenv("PARLIAMENT_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(NULL, sizeof(struct setting), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED) setting = map;
}

static int64_t ns_of(const struct timespec *t) { return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec; }

static void to_timespec(int64_t ns, struct timespec *t) {
    t->tv_sec = ns / 1000000000;
    t->tv_nsec = ns % 1000000000;
}

static int64_t skew_now(void) {
    struct timespec t;
    true_gettime(CLOCK_MONOTONIC, &t);
    while (atomic_flag_test_and_set(&busy)) {}
    int64_t now = ns_of(&t);
    /* Another thread may have looked a little later, and changed the rate then. */
    if (now < since) now = since;
    int64_t ahead = skew + (int64_t)((double)(now - since) * (double)(rate - 1000000) / 1e6);
    int64_t wanted = setting->rate_millionths;
    if (wanted > 0 && wanted != rate) {
        skew = ahead;
        since = now;
        rate = wanted;
    }
    atomic_flag_clear(&busy);
    return ahead;
}

int clock_gettime(clockid_t id, struct timespec *t) {
    if (!true_gettime) true_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = true_gettime(id, t);
    if (failed || id < 0 || id == CLOCK_PROCESS_CPUTIME_ID || id == CLOCK_THREAD_CPUTIME_ID) return failed;
    int64_t ns = ns_of(t) + skew_now();
    int wall = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE || id == CLOCK_TAI;
    to_timespec(ns + (wall ? setting->wall_ns : 0), t);
    return 0;
}

/* A time by this process's clock as one by the true clock. */
static double truly(double time) {
    skew_now();
    return time * 1e6 / (double)rate;
}

int epoll_wait(int epoll, struct epoll_event *events, int count, int ms) {
    return true_epoll(epoll, events, count, ms > 0 ? (int)truly(ms) + 1 : ms);
}

int clock_nanosleep(clockid_t id, int flags, const struct timespec *asked, struct timespec *left) {
    if (flags & TIMER_ABSTIME) return true_sleep(id, flags, asked, left);
    struct timespec t;
    to_timespec((int64_t)truly((double)ns_of(asked)), &t);
    return true_sleep(id, flags, &t, left);
}

int nanosleep(const struct timespec *asked, struct timespec *left) {
    int failed = clock_nanosleep(CLOCK_MONOTONIC, 0, asked, left);
    if (!failed) return 0;
    errno = failed;
    return -1;
}
