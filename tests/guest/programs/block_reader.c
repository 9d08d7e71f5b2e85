/* block_reader FILE MILLISECONDS [direct]: blocks of 4 KiB are read anywhere in a file for so long; how many a second.
 *
 * Each block begins with its number (as `tests/bench/window.py` makes the file), which is checked. `direct` is O_DIRECT.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_BYTES = 4096, BATCH = 16 };

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000u + now.tv_nsec;
}

int main(int count, char **arguments) {
  static uint64_t block[BLOCK_BYTES / sizeof(uint64_t)] __attribute__((aligned(BLOCK_BYTES)));
  struct stat status;
  if (count < 3) return 2;
  int fd = open(arguments[1], O_RDONLY | (count > 3 ? O_DIRECT : 0));
  if (fd < 0 || fstat(fd, &status)) {
    perror(arguments[1]);
    return 1;
  }
  uint64_t state = 88172645463325252u, begin = now_ns(), end = begin + strtoull(arguments[2], NULL, 10) * 1000000u, done = 0, now;
  do {
    for (int i = 0; i < BATCH; i++) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      uint64_t number = state % (status.st_size / BLOCK_BYTES);
      if (pread(fd, block, BLOCK_BYTES, number * BLOCK_BYTES) != BLOCK_BYTES || block[0] != number) {
        printf("block %llu begins with %llu\n", (unsigned long long)number, (unsigned long long)block[0]);
        return 1;
      }
    }
    done += BATCH;
    now = now_ns();
  } while (now < end);
  printf("%.1f\n", done * 1e9 / (now - begin));
  return 0;
}
