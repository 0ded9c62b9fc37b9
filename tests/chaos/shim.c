/* Makes the wall clock jump and the disk slow for one kernel and all it starts; the machine's own clock and disk stay as they are.
 *
 * Loaded with LD_PRELOAD. NBE_CHAOS_SHIM names a file with two numbers, which all processes map: nanoseconds by which the wall
 * clock is ahead, and microseconds that making, renaming and syncing a file take longer, as does every 16th write to one.
 * Waits until a time of the wall clock are turned back into the system's own, as they would be after a real jump. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct told {
  volatile int64_t ahead_ns;
  volatile int64_t slow_us;
};
static struct told nothing;
static struct told *told = &nothing;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("NBE_CHAOS_SHIM");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *found = mmap(NULL, sizeof(struct told), PROT_READ, MAP_SHARED, fd, 0);
  if (found != MAP_FAILED) told = found;
  close(fd);
}

#define NEXT(type, name) \
  static __typeof__((type)0) next; \
  if (!next) next = (__typeof__((type)0))dlsym(RTLD_NEXT, name)

static void shift(struct timespec *t, int64_t ns) {
  int64_t all = (int64_t)t->tv_sec * 1000000000 + t->tv_nsec + ns;
  t->tv_sec = all / 1000000000;
  t->tv_nsec = all % 1000000000;
}

/* ---- the clock ---- */

int clock_gettime(clockid_t id, struct timespec *t) {
  NEXT(int (*)(clockid_t, struct timespec *), "clock_gettime");
  int code = next(id, t);
  if (code == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) shift(t, told->ahead_ns);
  return code;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  (void)zone;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t) *t = now.tv_sec;
  return now.tv_sec;
}

/* A time that counts from boot is far smaller than one that counts from 1970. */
static const struct timespec *own(const struct timespec *wanted, struct timespec *room) {
  if (!wanted || wanted->tv_sec < 1500000000) return wanted;
  *room = *wanted;
  shift(room, -told->ahead_ns);
  return room;
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until) {
  NEXT(int (*)(sem_t *, const struct timespec *), "sem_timedwait");
  struct timespec room;
  return next(sem, own(until, &room));
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
  static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  if (!next) next = (__typeof__(next))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!next) next = (__typeof__(next))dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  struct timespec room;
  return next(cond, mutex, own(until, &room));
}

/* ---- the disk ---- */

static void wait_for_disk(void) {
  int64_t us = told->slow_us;
  if (us > 0) usleep((useconds_t)us);
}

ssize_t write(int fd, const void *data, size_t size) {
  NEXT(ssize_t (*)(int, const void *, size_t), "write");
  static volatile unsigned count;
  struct stat info;
  if (told->slow_us > 0 && ++count % 16 == 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) wait_for_disk();
  return next(fd, data, size);
}

int fsync(int fd) {
  NEXT(int (*)(int), "fsync");
  wait_for_disk();
  return next(fd);
}

int rename(const char *from, const char *to) {
  NEXT(int (*)(const char *, const char *), "rename");
  wait_for_disk();
  return next(from, to);
}

static int make(const char *name, const char *path, int flags, mode_t mode) {
  int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name);
  if (flags & O_CREAT) wait_for_disk();
  return next(path, flags, mode);
}

int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return make("open", path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return make("open64", path, flags, mode);
}
