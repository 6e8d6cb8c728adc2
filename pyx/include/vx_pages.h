/* Arrays in pages that lanes read while the one writer prepares a changed copy, and the bin of what
 * the change replaced. A change copies the pages it touches and the list of pages, no more.
 *
 * The size of an item is a power of two. Pages never written are all one page of zeros. */
#ifndef VX_PAGES_H
#define VX_PAGES_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { VX_PAGE_SHIFT = 16, VX_PAGE_LEN = 1 << VX_PAGE_SHIFT };

static inline void *vx_item(uint8_t *const *pages, uint64_t i, unsigned item_shift)
{
    uint64_t at = i << item_shift;
    return pages[at >> VX_PAGE_SHIFT] + (at & (VX_PAGE_LEN - 1));
}

/* What lanes may still read, each with the epoch that all must have reached before it is freed. */
struct vx_bin {
    struct vx_binned {
        void *memory;
        uint64_t epoch;
    } *items;
    size_t n_items, room;
};

/* Room for `n` more, so that throwing away cannot fail; 0 when there is no memory. */
static inline int vx_bin_reserve(struct vx_bin *bin, size_t n)
{
    size_t room = bin->room ? bin->room : 64;
    if (bin->n_items + n <= bin->room)
        return 1;
    while (room < bin->n_items + n)
        room *= 2;
    struct vx_binned *items = realloc(bin->items, room * sizeof *items);
    if (!items)
        return 0;
    bin->items = items;
    bin->room = room;
    return 1;
}

static inline void vx_bin_put(struct vx_bin *bin, void *memory, uint64_t epoch)
{
    if (memory)
        bin->items[bin->n_items++] = (struct vx_binned){memory, epoch};
}

/* Free what nobody reads any more: everything of an epoch up to `oldest`. */
static inline void vx_bin_empty(struct vx_bin *bin, uint64_t oldest)
{
    size_t kept = 0;
    for (size_t i = 0; i < bin->n_items; i++) {
        if (bin->items[i].epoch <= oldest)
            free(bin->items[i].memory);
        else
            bin->items[kept++] = bin->items[i];
    }
    bin->n_items = kept;
}

struct vx_array {
    uint8_t **live;  /* what lanes read */
    uint8_t **draft; /* the writer's changed copy, or NULL */
    uint8_t *zeros;  /* the page that was never written, shared */
    uint32_t n_live, n_draft;
    uint32_t item_shift;
};

static inline uint8_t **vx_pages_new(uint64_t n_pages, uint8_t *zeros)
{
    uint8_t **pages = malloc(n_pages * sizeof *pages);
    for (uint64_t i = 0; pages && i < n_pages; i++)
        pages[i] = zeros;
    return pages;
}

static inline uint64_t vx_pages_for(uint64_t n_items, unsigned item_shift)
{
    uint64_t n_pages = ((n_items << item_shift) + VX_PAGE_LEN - 1) >> VX_PAGE_SHIFT;
    return n_pages ? n_pages : 1;
}

static inline int vx_array_open(struct vx_array *array, uint64_t n_items, unsigned item_shift, uint8_t *zeros)
{
    array->item_shift = item_shift;
    array->zeros = zeros;
    array->n_live = (uint32_t)vx_pages_for(n_items, item_shift);
    array->live = vx_pages_new(array->n_live, zeros);
    return array->live != NULL;
}

/* The writer's own reading: what its change says so far. */
static inline const void *vx_array_get(const struct vx_array *array, uint64_t i)
{
    return vx_item(array->draft ? array->draft : array->live, i, array->item_shift);
}

/* Whether a page of the draft is one that this change made. */
static inline int vx_array_owns(const struct vx_array *array, uint32_t page)
{
    const uint8_t *memory = array->draft[page];
    return memory != array->zeros && (page >= array->n_live || memory != array->live[page]);
}

static inline int vx_array_start(struct vx_array *array)
{
    if (array->draft)
        return 1;
    array->draft = malloc(array->n_live * sizeof *array->draft);
    if (!array->draft)
        return 0;
    memcpy(array->draft, array->live, array->n_live * sizeof *array->draft);
    array->n_draft = array->n_live;
    return 1;
}

/* An item to be changed, in the draft; NULL when there is no memory. */
static inline void *vx_array_edit(struct vx_array *array, uint64_t i)
{
    uint32_t page = (uint32_t)(i << array->item_shift >> VX_PAGE_SHIFT);
    if (!vx_array_start(array))
        return NULL;
    if (!vx_array_owns(array, page)) {
        uint8_t *copy = malloc(VX_PAGE_LEN);
        if (!copy)
            return NULL;
        memcpy(copy, array->draft[page], VX_PAGE_LEN);
        array->draft[page] = copy;
    }
    return vx_item(array->draft, i, array->item_shift);
}

static inline void vx_array_abort(struct vx_array *array)
{
    for (uint32_t i = 0; array->draft && i < array->n_draft; i++)
        if (vx_array_owns(array, i))
            free(array->draft[i]);
    free(array->draft);
    array->draft = NULL;
}

/* Put `n_items` items of zeros in the place of all; 0 when there is no memory. */
static inline int vx_array_renew(struct vx_array *array, uint64_t n_items)
{
    uint64_t n_pages = vx_pages_for(n_items, array->item_shift);
    uint8_t **pages = vx_pages_new(n_pages, array->zeros);
    if (!pages)
        return 0;
    vx_array_abort(array);
    array->draft = pages;
    array->n_draft = (uint32_t)n_pages;
    return 1;
}

/* How many blocks of memory vx_array_commit will throw away. */
static inline size_t vx_array_waste(const struct vx_array *array)
{
    size_t n = array->draft ? 1 : 0;
    for (uint32_t i = 0; array->draft && i < array->n_live; i++)
        n += array->live[i] != array->zeros && (i >= array->n_draft || array->draft[i] != array->live[i]);
    return n;
}

/* Make the draft what lanes will read; the bin has room for the waste. */
static inline void vx_array_commit(struct vx_array *array, struct vx_bin *bin, uint64_t epoch)
{
    if (!array->draft)
        return;
    for (uint32_t i = 0; i < array->n_live; i++)
        if (array->live[i] != array->zeros && (i >= array->n_draft || array->draft[i] != array->live[i]))
            vx_bin_put(bin, array->live[i], epoch);
    vx_bin_put(bin, array->live, epoch);
    array->live = array->draft;
    array->n_live = array->n_draft;
    array->draft = NULL;
}

static inline void vx_array_close(struct vx_array *array)
{
    vx_array_abort(array);
    for (uint32_t i = 0; array->live && i < array->n_live; i++)
        if (array->live[i] != array->zeros)
            free(array->live[i]);
    free(array->live);
    array->live = NULL;
}

#endif
