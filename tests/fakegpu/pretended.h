/* What the parts of the pretended CUDA runtime share: one device, its memory, and handles that mean nothing. */
#ifndef PRETENDED_H
#define PRETENDED_H

#include <stddef.h>

/* torch, nvidia-smi and every file that harness writes carry this name, so no figure can be taken for a real one. */
#define DEVICE_NAME "pretended NVIDIA H100 80GB HBM3"
#define DEVICE_BYTES ((size_t)81559 << 20)
#define DRIVER_VERSION 13000 /* CUDA 13.0 */

enum kind {
    HOST,   /* host memory that is known to CUDA ("pinned") */
    DEVICE, /* device memory at an address */
    PIECE,  /* physical device memory without an address; `start` is its handle */
    MAPPED, /* addresses into which a piece is mapped */
};

struct region {
    char *start; /* NULL: no region */
    size_t num_bytes;
    enum kind kind;
};

/* Return an address that no two objects share. Nothing lies there: a handle is only handed back. */
void *new_handle(void);

/* Map memory that takes room only where it is written to; NULL if the address space is full. */
void *map_memory(size_t num_bytes);
void unmap_memory(void *start, size_t num_bytes);

/* Give back the pages of a range whose addresses stay reserved. */
void drop_pages(void *start, size_t num_bytes);

void remember_region(void *start, size_t num_bytes, enum kind kind);
struct region forget_region(void *start);
struct region region_of(const void *address);

/* Return whether so much device memory is left; the rest is allocated, or a real driver's own. */
int has_room_for(size_t num_bytes);
size_t free_bytes(void);

/* Copy what a program may look at: whatever comes from the host or goes there, and little things on the device. */
void copy_memory(void *to, const void *from, size_t num_bytes);
void fill_memory(void *start, int value, size_t num_bytes);

#endif
