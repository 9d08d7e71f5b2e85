/* file_exerciser FILE SEED OPERATIONS [guest]: one file, changed and read in every way that there is, compared with a copy in memory.
 *
 * After fsx of old: reads, writes, appends, truncations, shared and private mappings, holes, preallocation, copies within the file,
 * renames of it, closing and opening. It ends with the first difference, with status 1 and the last operations; the same seed does
 * the same again. It prints how many operations of each kind there were. In a guest it drops the page cache now and then, too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIMIT_BYTES = 512 << 10, PIECE_BYTES = 48 << 10, PAGE_BYTES = 4096, KEPT_LINES = 24, LINE_BYTES = 96 };

static const char *path, *other_path;
static int fd, is_guest;
static uint64_t state;
static size_t size_bytes;
static unsigned char model[LIMIT_BYTES + 8], buffer[LIMIT_BYTES + 8];
static long number;
static char lines[KEPT_LINES][LINE_BYTES];

static uint64_t any(void) { /* xorshift64 */
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

static void note(const char *format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(lines[number % KEPT_LINES], LINE_BYTES, format, values);
  va_end(values);
}

static void fail(const char *what) {
  printf("operation %ld: %s: %s (size %zu)\n", number, what, strerror(errno), size_bytes);
  for (long i = number < KEPT_LINES ? 0 : number - KEPT_LINES + 1; i <= number; i++) printf("  %ld %s\n", i, lines[i % KEPT_LINES]);
  exit(1);
}

static void compare(const unsigned char *found, size_t offset, size_t length, const char *what) {
  for (size_t i = 0; i < length; i++)
    if (found[i] != model[offset + i]) {
      printf("byte %zu is %02x, not %02x\n", offset + i, found[i], model[offset + i]);
      errno = 0;
      fail(what);
    }
}

static void fill(size_t length) {
  for (size_t i = 0; i < length; i += 8) {
    uint64_t value = any();
    memcpy(buffer + i, &value, 8);
  }
}

static void grow(size_t end) {
  if (end > size_bytes) size_bytes = end;
}

static void choose_any(size_t *offset, size_t *length) {
  *offset = any() % LIMIT_BYTES;
  if (any() % 4 == 0) *offset &= ~(size_t)(PAGE_BYTES - 1);
  *length = any() % PIECE_BYTES + 1;
  if (*offset + *length > LIMIT_BYTES) *length = LIMIT_BYTES - *offset;
}

static int choose_within(size_t *offset, size_t *length) { /* the file; 0: it is empty */
  choose_any(offset, length);
  if (size_bytes == 0) return 0;
  if (*offset >= size_bytes) *offset = any() % size_bytes;
  if (*offset + *length > size_bytes) *length = size_bytes - *offset;
  return 1;
}

static int do_read(void) {
  size_t offset, length;
  if (!choose_within(&offset, &length)) return 0;
  note("read %zu at %zu", length, offset);
  if (pread(fd, buffer, length, offset) != (ssize_t)length) fail("read");
  compare(buffer, offset, length, "read");
  return 1;
}

static int do_write(void) {
  size_t offset, length;
  choose_any(&offset, &length);
  note("write %zu at %zu", length, offset);
  fill(length);
  if (pwrite(fd, buffer, length, offset) != (ssize_t)length) fail("write");
  memcpy(model + offset, buffer, length);
  grow(offset + length);
  return 1;
}

static int do_append(void) {
  size_t length = any() % PAGE_BYTES + 1;
  if (size_bytes + length > LIMIT_BYTES) return 0;
  note("append %zu", length);
  fill(length);
  int end = open(path, O_WRONLY | O_APPEND);
  if (end < 0 || write(end, buffer, length) != (ssize_t)length || close(end) != 0) fail("append");
  memcpy(model + size_bytes, buffer, length);
  grow(size_bytes + length);
  return 1;
}

static int do_truncate(void) {
  size_t size = any() % LIMIT_BYTES;
  note("truncate to %zu", size);
  if (ftruncate(fd, size)) fail("truncate");
  if (size < size_bytes) memset(model + size, 0, size_bytes - size);
  size_bytes = size;
  return 1;
}

static int do_map(void) { /* read; written shared: the file's; written private: nobody else's */
  size_t offset, length, way = any() % 3;
  if (!choose_within(&offset, &length)) return 0;
  size_t begin = offset & ~(size_t)(PAGE_BYTES - 1), mapped = offset + length - begin;
  note("map %s %zu at %zu", way == 0 ? "to read" : way == 1 ? "shared" : "private", length, offset);
  int protection = way == 0 ? PROT_READ : PROT_READ | PROT_WRITE;
  unsigned char *at = mmap(NULL, mapped, protection, way == 2 ? MAP_PRIVATE : MAP_SHARED, fd, begin);
  if (at == MAP_FAILED) fail("mmap");
  compare(at + (offset - begin), offset, length, "mapped");
  if (way) {
    fill(length);
    memcpy(at + (offset - begin), buffer, length);
  }
  if (way == 1) {
    memcpy(model + offset, buffer, length);
    if (any() % 2 && msync(at, mapped, MS_SYNC)) fail("msync");
  }
  if (munmap(at, mapped)) fail("munmap");
  return 1;
}

static int do_fallocate(void) {
  size_t offset, length, way = any() % 3;
  choose_any(&offset, &length);
  int mode = way == 0 ? 0 : way == 1 ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE;
  note("fallocate mode %d %zu at %zu", mode, length, offset);
  if (fallocate(fd, mode, offset, length)) {
    if (errno == EOPNOTSUPP) return 0; /* tmpfs has no FALLOC_FL_ZERO_RANGE */
    fail("fallocate");
  }
  if (way) memset(model + offset, 0, length);
  if (way != 1) grow(offset + length);
  return 1;
}

static int do_copy(void) {
  size_t from, length, to = any() % (LIMIT_BYTES - PIECE_BYTES);
  if (!choose_within(&from, &length)) return 0;
  if ((from < to ? to - from : from - to) < length) return 0; /* they would overlap */
  note("copy %zu from %zu to %zu", length, from, to);
  loff_t source = from, target = to;
  ssize_t done = copy_file_range(fd, &source, fd, &target, length, 0);
  if (done <= 0) fail("copy_file_range");
  memmove(model + to, model + from, done);
  grow(to + done);
  return 1;
}

static int do_open_again(void) {
  note("close, open");
  if (any() % 2 && fsync(fd)) fail("fsync");
  if (close(fd)) fail("close");
  if (any() % 4 == 0 && is_guest) { /* forget what is cached */
    int caches = open("/proc/sys/vm/drop_caches", O_WRONLY);
    if (caches >= 0) {
      sync();
      if (write(caches, "3", 1) != 1) fail("drop_caches");
      close(caches);
    }
  }
  if ((fd = open(path, O_RDWR)) < 0) fail("open");
  return 1;
}

static int do_rename(void) {
  note("rename, twice");
  if (rename(path, other_path) || rename(other_path, path)) fail("rename");
  return 1;
}

static int do_stat(void) {
  struct stat found;
  note("stat");
  if (fstat(fd, &found)) fail("fstat");
  if ((size_t)found.st_size != size_bytes) {
    printf("the size is %lld\n", (long long)found.st_size);
    fail("size");
  }
  return 1;
}

static const struct { const char *name; int (*run)(void); } operations[] = {
  {"read", do_read}, {"write", do_write}, {"write", do_write}, {"append", do_append}, {"truncate", do_truncate}, {"map", do_map},
  {"map", do_map}, {"fallocate", do_fallocate}, {"copy", do_copy}, {"open", do_open_again}, {"rename", do_rename}, {"stat", do_stat},
};
enum { KINDS = sizeof operations / sizeof operations[0] };

int main(int count, char **arguments) {
  long counts[KINDS] = {0};
  static char other[4096];
  if (count < 4) return 2;
  is_guest = count > 4;
  path = arguments[1];
  snprintf(other, sizeof other, "%s.renamed", path);
  other_path = other;
  state = 0x9E3779B97F4A7C15u * (strtoull(arguments[2], NULL, 10) + 1);
  unlink(path);
  if ((fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0644)) < 0) fail("create");
  for (long wanted = strtol(arguments[3], NULL, 10); number < wanted; number++) {
    int kind = any() % KINDS;
    counts[kind] += operations[kind].run();
  }
  for (size_t offset = 0; offset < size_bytes; offset += PIECE_BYTES) {
    size_t length = size_bytes - offset < PIECE_BYTES ? size_bytes - offset : PIECE_BYTES;
    if (pread(fd, buffer, length, offset) != (ssize_t)length) fail("last read");
    compare(buffer, offset, length, "last read");
  }
  if (close(fd)) fail("close");
  for (int kind = 0; kind < KINDS; kind++) printf("%s %ld\n", operations[kind].name, counts[kind]);
  return 0;
}
