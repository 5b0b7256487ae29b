/* Pretended device memory: host memory that is mapped, and backed by pages only where something is copied to it.
 *
 * A model of 70 GiB fits a small machine this way, because kernels write nothing. torch's caching allocator above it is
 * the real one, and sees a device that is full at the size of an H100.
 */
#define _GNU_SOURCE
#include "pretended.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define MOST_REGIONS (1 << 16)
#define DRIVERS_OWN_BYTES ((size_t)512 << 20)
#define LARGEST_COPY_ON_DEVICE ((size_t)64 << 10)
#define LARGEST_COPY ((size_t)64 << 20)

static struct region regions[MOST_REGIONS];
static int num_regions;
static size_t used = DRIVERS_OWN_BYTES;
static size_t last_handle = (size_t)7 << 60; /* no memory ever has such an address */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void *new_handle(void) { return (void *)__sync_add_and_fetch(&last_handle, 64); }

void *map_memory(size_t num_bytes) {
    void *start = mmap(NULL, num_bytes ? num_bytes : 1, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

void unmap_memory(void *start, size_t num_bytes) { munmap(start, num_bytes ? num_bytes : 1); }

void drop_pages(void *start, size_t num_bytes) { madvise(start, num_bytes, MADV_DONTNEED); }

static int takes_room(enum kind kind) { return kind == DEVICE || kind == PIECE; }

void remember_region(void *start, size_t num_bytes, enum kind kind) {
    pthread_mutex_lock(&lock);
    int place = 0;
    while (place < num_regions && regions[place].start)
        place++;
    if (place < MOST_REGIONS) {
        regions[place] = (struct region){start, num_bytes, kind};
        if (place == num_regions)
            num_regions++;
        if (takes_room(kind))
            used += num_bytes;
    }
    pthread_mutex_unlock(&lock);
}

struct region forget_region(void *start) {
    struct region found = {NULL, 0, HOST};
    pthread_mutex_lock(&lock);
    for (int place = 0; place < num_regions; place++)
        if (regions[place].start == start) {
            found = regions[place];
            regions[place].start = NULL;
            if (takes_room(found.kind))
                used -= found.num_bytes;
            break;
        }
    pthread_mutex_unlock(&lock);
    return found;
}

struct region region_of(const void *address) {
    struct region found = {NULL, 0, HOST};
    const char *wanted = address;
    pthread_mutex_lock(&lock);
    for (int place = 0; place < num_regions; place++) {
        struct region each = regions[place];
        if (each.start && wanted >= each.start && wanted < each.start + each.num_bytes) {
            found = each;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return found;
}

size_t free_bytes(void) { return DEVICE_BYTES - used; }

int has_room_for(size_t num_bytes) { return num_bytes <= free_bytes(); }

static int is_on_device(const void *address) {
    struct region found = region_of(address);
    return found.start && (found.kind == DEVICE || found.kind == MAPPED);
}

void copy_memory(void *to, const void *from, size_t num_bytes) {
    /* Large copies would turn pretended memory into real memory, and nobody looks at them. */
    int stays_on_device = is_on_device(to) && is_on_device(from);
    if (num_bytes <= (stays_on_device ? LARGEST_COPY_ON_DEVICE : LARGEST_COPY))
        memmove(to, from, num_bytes);
}

void fill_memory(void *start, int value, size_t num_bytes) {
    if (num_bytes <= LARGEST_COPY_ON_DEVICE)
        memset(start, value, num_bytes);
}
