/* Lanes and a writer at the same tables, for ThreadSanitizer: everything small, so that they meet.
 *
 * Whatever happens, an address is only ever learned or set at targets of its own class (mac % 4), and a
 * flood set is all of one half of the remotes, a segment's prefixes are all of one length; a lane that sees
 * anything else saw a torn or freed thing. One thread takes what all lanes tell, and holds it to the same.
 * Afterwards the table is walked: no key twice, every entry found by a search, every count right.
 *
 *   cc -g -O1 -fsanitize=thread -Ipyx/include tests/races/tables.c -o tables && ./tables 2000
 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "vx_fdb.h"

enum { N_LANES = 3, N_REMOTES = 16, N_VNIS = 4, N_MACS = 96, N_LOOKUPS = 64, ROOM = 160, BIG = 6 };

static struct vx_tables *tables;
static struct vx_ring rings[N_LANES];
static int stop;

#define CHECK(condition, what)                                 \
    do {                                                       \
        if (!(condition)) {                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, what); \
            exit(1);                                           \
        }                                                      \
    } while (0)

static uint64_t next_random(uint64_t *state)
{
    *state += VX_K2;
    return vx_mix(*state ^ VX_K0, VX_K1);
}

static uint64_t mac_of(uint32_t n) { return 0x020000000000 + n; }
static uint32_t vni_of(uint32_t n) { return n << 15 | 5; } /* some differ in their high bits only */

/* -- lanes ---------------------------------------------------------------------------------------- */

static void check_flood(const struct vx_segment *s)
{
    const uint32_t *members = vx_flood(s);
    for (uint32_t i = 0; i < s->n_flood; i++) {
        CHECK(members[i] < N_REMOTES, "a flood set with a member that never was");
        CHECK(members[i] / (N_REMOTES / 2) == members[0] / (N_REMOTES / 2), "a flood set of two halves");
        CHECK(!i || members[i - 1] < members[i], "a flood set out of order");
    }
}

static void check_policy(const struct vx_seat *seat, uint32_t segment)
{
    const struct vx_policy *policy = vx_policy_of(seat, segment);
    for (uint32_t i = 0; i < policy->n_prefixes; i++)
        CHECK(policy->prefixes[i].n_bits == policy->n_prefixes, "prefixes of two policies");
    CHECK(policy->rate[0] == policy->rate[1], "rates of two policies");
}

static void look_up(struct vx_seat *seat, const struct vx_segment *s, uint64_t *random, uint32_t now_s)
{
    uint64_t macs[N_LOOKUPS];
    int32_t found[N_LOOKUPS];
    for (int i = 0; i < N_LOOKUPS; i++)
        macs[i] = mac_of(next_random(random) % N_MACS);
    vx_fdb_find_batch(seat, s, macs, N_LOOKUPS, found, now_s);
    for (int i = 0; i < N_LOOKUPS; i++) {
        CHECK(found[i] == VX_NONE || (uint64_t)found[i] % 4 == macs[i] % 4, "the target of another address");
        CHECK(found[i] == VX_NONE || vx_remote_at(seat, (uint32_t)found[i])->family, "a remote that is gone");
    }
}

static void learn(struct vx_seat *seat, const struct vx_segment *s, uint64_t *random, uint32_t now_s)
{
    for (int i = 0; i < N_LOOKUPS / 4; i++) {
        uint64_t mac = mac_of(next_random(random) % N_MACS);
        uint32_t target = (uint32_t)(next_random(random) % (N_REMOTES / 4) * 4 + mac % 4);
        if (vx_remote_at(seat, target)->family)
            vx_fdb_learn(seat, s, mac, target, now_s);
    }
}

static void *lane(void *argument)
{
    struct vx_seat *seat = argument;
    uint64_t random = (uint64_t)(seat - tables->seats), turn = 0;
    while (!vx_get_relaxed(&stop)) {
        uint32_t now_s = (uint32_t)(turn++ / 16);
        vx_enter(seat);
        int32_t segment = vx_find_segment(seat, vni_of((uint32_t)(next_random(&random) % N_VNIS)));
        if (segment != VX_NONE) {
            const struct vx_segment *s = vx_segment_at(seat, (uint32_t)segment);
            check_flood(s);
            check_policy(seat, (uint32_t)segment);
            look_up(seat, s, &random, now_s);
            learn(seat, s, &random, now_s);
            (void)vx_is_peer(seat, (uint32_t)segment, (uint32_t)(next_random(&random) % N_REMOTES));
        }
        if (turn % 8 == 0)
            vx_fdb_sweep(seat, 16, now_s);
        if (turn % 4 == 0)
            vx_leave(seat);
        vx_wake_reader(seat->ring);
    }
    vx_leave(seat);
    return NULL;
}

/* -- who is told ---------------------------------------------------------------------------------- */

static uint64_t take_all(void)
{
    static struct vx_event events[VX_RING_LEN];
    uint64_t taken = 0;
    for (int i = 0; i < N_LANES; i++) {
        uint32_t n = vx_take(&rings[i], events);
        for (uint32_t k = 0; k < n; k++) {
            uint32_t target = events[k].target == UINT32_MAX ? events[k].was : events[k].target;
            CHECK(events[k].mac % 4 == target % 4, "an event of another address");
            CHECK(events[k].kind <= VX_LIMIT_EVENT, "an event of no kind");
        }
        taken += n;
    }
    return taken;
}

static int may_sleep(void)
{
    int quiet = 1;
    for (int i = 0; i < N_LANES; i++)
        quiet &= vx_may_sleep(&rings[i]);
    return quiet;
}

static void *reader(void *argument)
{
    struct pollfd wake = {rings[0].bell.wake_fd, POLLIN, 0};
    uint64_t *told = argument, n;
    while (!vx_get_relaxed(&stop)) {
        *told += take_all();
        if (!may_sleep())
            continue;
        CHECK(poll(&wake, 1, 5000) == 1 || vx_get_relaxed(&stop), "nobody was woken");
        CHECK(read(wake.fd, &n, sizeof n) == sizeof n || vx_get_relaxed(&stop), "no event");
    }
    return NULL;
}

/* -- the writer ----------------------------------------------------------------------------------- */

static void publish(void)
{
    struct vx_view *view = vx_prepare(tables);
    CHECK(view, "no memory");
    vx_leave(&tables->seats[0]);
    vx_publish(tables, view);
    vx_enter(&tables->seats[0]);
}

static void put_remote(uint32_t n, uint32_t family)
{
    struct vx_remote *remote = vx_array_edit(&tables->arrays[VX_REMOTES], n);
    CHECK(remote, "no memory");
    memset(remote, 0, sizeof *remote);
    remote->family = family;
    remote->address[0] = (uint8_t)n;
}

static void put_segment(uint32_t n, int present)
{
    struct vx_segment *s = vx_array_edit(&tables->arrays[VX_SEGMENTS], n);
    CHECK(s && vx_set_flood(tables, s, NULL, 0), "no memory");
    memset(s, 0, sizeof *s);
    if (present) {
        s->vni = vni_of(n);
        s->ageing_s = 2;
        s->max_learned = ROOM / 3;
        s->flags = VX_SEGMENT_PRESENT;
    }
    *(uint32_t *)vx_array_edit(&tables->arrays[VX_VNIS], vni_of(n)) = present ? n + 1 : 0;
}

static void put_flood(uint32_t n, uint64_t *random)
{
    struct vx_segment *s = vx_array_edit(&tables->arrays[VX_SEGMENTS], n);
    uint32_t members[BIG], half = next_random(random) % 2 * (N_REMOTES / 2);
    uint32_t n_members = (uint32_t)(next_random(random) % (BIG + 1));
    for (uint32_t i = 0; i < n_members; i++)
        members[i] = half + i;
    CHECK(vx_set_flood(tables, s, members, n_members), "no memory");
}

static void put_policy(uint32_t n, uint64_t *random)
{
    struct vx_policy *policy = vx_array_edit(&tables->arrays[VX_POLICIES], n);
    struct vx_prefix prefixes[BIG] = {0};
    uint32_t n_prefixes = (uint32_t)(next_random(random) % (BIG + 1));
    for (uint32_t i = 0; i < n_prefixes; i++)
        prefixes[i].n_bits = n_prefixes;
    policy->rate[0] = policy->rate[1] = n_prefixes;
    CHECK(vx_set_prefixes(tables, policy, prefixes, n_prefixes), "no memory");
}

static void flush(uint32_t n)
{
    tables->generation = tables->generation % (VX_GENERATIONS - 1) + 1;
    struct vx_segment *s = vx_array_edit(&tables->arrays[VX_SEGMENTS], n);
    s->flushed = (uint16_t)tables->generation;
    vx_put(&tables->fdb.states[vni_of(n)].learned, (uint64_t)tables->generation << 32);
}

static void purge(void)
{
    vx_wait_for_lanes(tables, &tables->seats[0]);
    vx_fdb_purge(&tables->seats[0]);
}

static void renew(void)
{
    vx_wait_for_lanes(tables, &tables->seats[0]);
    vx_fdb_renew(&tables->seats[0]);
    for (uint32_t n = 0; n < N_VNIS; n++) {
        vx_forget_flush(&tables->fdb.states[vni_of(n)]);
        ((struct vx_segment *)vx_array_edit(&tables->arrays[VX_SEGMENTS], n))->flushed = 0;
    }
}

static void set_entries(uint64_t *random)
{
    uint64_t old;
    for (int i = 0; i < 8; i++) {
        uint64_t mac = mac_of(next_random(random) % N_MACS);
        struct vx_where w = vx_where(&tables->fdb, vni_of((uint32_t)(next_random(random) % (N_VNIS - 1))), mac);
        uint32_t target = (uint32_t)(next_random(random) % 3 * 4 + mac % 4);
        if (next_random(random) % 3)
            vx_fdb_unset(tables, &w);
        else
            vx_fdb_set(tables, &w, vx_value(w.vni, target, VX_STATIC, 0), 0, &old);
    }
}

/* The last segment and the last four remotes come and go. */
static void come_and_go(uint64_t round)
{
    for (uint32_t n = N_REMOTES - 4; n < N_REMOTES; n++)
        put_remote(n, round % 2 ? 4 : 0);
    if (round % 2)
        flush(N_VNIS - 1); /* before it is there: nothing of its last life counts */
    uint16_t flushed = (uint16_t)tables->generation;
    put_segment(N_VNIS - 1, round % 2);
    ((struct vx_segment *)vx_array_edit(&tables->arrays[VX_SEGMENTS], N_VNIS - 1))->flushed = flushed;
    publish();
    purge();
}

static void write_some(uint64_t rounds)
{
    uint64_t random = 99;
    for (uint64_t round = 0; round < rounds; round++) {
        uint32_t n = (uint32_t)(next_random(&random) % (N_VNIS - 1));
        put_flood(n, &random);
        put_policy(n, &random);
        if (round % 16 == 0)
            flush(n);
        if (round % 500 == 499)
            renew();
        publish();
        set_entries(&random);
        if (round % 64 == 0)
            come_and_go(round / 64);
    }
}

/* -- afterwards ----------------------------------------------------------------------------------- */

static void check_entry(const struct vx_entry *entry, uint64_t *counted)
{
    uint32_t vni = vx_entry_vni(entry->key, entry->value);
    struct vx_where w = vx_where(&tables->fdb, vni, entry->key >> 16);
    uint64_t value;
    CHECK(vx_seek(&tables->fdb, &w, &value) == entry, "an entry that no search finds");
    CHECK(!vx_is_double(&tables->fdb, &w, entry), "a key that stands twice");
    CHECK((entry->key >> 16) % 4 == vx_target_of(entry->value) % 4, "the target of another address");
    if (!vx_is_set(vx_kind_of(entry->value)))
        *counted += vx_is_counted(&tables->fdb.states[vni], entry->value);
}

static void check_all(void)
{
    uint64_t n_entries = 0, counted = 0, told = 0;
    for (uint64_t i = 0; i < tables->fdb.n_buckets * VX_WAYS; i++) {
        const struct vx_entry *entry = &tables->fdb.entries[i];
        CHECK(vx_kind_of(entry->value) != VX_BUSY, "an entry that somebody left busy");
        if (vx_is_live(vx_kind_of(entry->value))) {
            n_entries++;
            check_entry(entry, &counted);
        }
    }
    for (uint32_t n = 0; n < N_VNIS; n++)
        told += (uint32_t)tables->fdb.states[vni_of(n)].learned;
    CHECK(n_entries == tables->n_entries, "a wrong number of entries");
    CHECK(counted == told, "a wrong number of learned entries");
}

static void check_nothing_passed(void)
{
    for (uint64_t i = 0; i < tables->fdb.n_buckets; i++)
        CHECK(tables->fdb.passed[i] == 0 || tables->fdb.passed[i] == VX_PASSED_MAX, "a note of what passed stayed");
}

static void empty(void)
{
    for (uint64_t i = 0; i < tables->fdb.n_buckets * VX_WAYS; i++) {
        struct vx_entry *entry = &tables->fdb.entries[i];
        struct vx_where w = vx_where(&tables->fdb, vx_entry_vni(entry->key, entry->value), entry->key >> 16);
        if (vx_is_live(vx_kind_of(entry->value)))
            vx_fdb_unset(tables, &w);
    }
    CHECK(tables->n_entries == 0, "an entry that cannot be removed");
}

int main(int argc, char **argv)
{
    pthread_t threads[N_LANES], listener;
    uint64_t told = 0, dropped = 0, one = 1;
    int wake_fd = eventfd(0, 0);
    tables = vx_map(sizeof *tables, 0);
    CHECK(tables && vx_open(tables, N_VNIS, ROOM), "no memory");
    tables->fdb.max_moves = 200;
    tables->fdb.moves_window_s = 2;
    for (uint32_t n = 0; n < N_REMOTES; n++)
        put_remote(n, 4);
    for (uint32_t n = 0; n < N_VNIS; n++)
        put_segment(n, 1);
    vx_enter(&tables->seats[0]);
    publish();
    for (int i = 0; i < N_LANES; i++) {
        rings[i].kinds = UINT32_MAX;
        rings[i].bell.wake_fd = wake_fd;
        tables->seats[1 + i].ring = &rings[i];
    }
    pthread_create(&listener, NULL, reader, &told);
    for (int i = 0; i < N_LANES; i++)
        pthread_create(&threads[i], NULL, lane, &tables->seats[1 + i]);
    write_some(argc > 1 ? strtoull(argv[1], NULL, 10) : 1000);
    vx_put_relaxed(&stop, 1);
    for (int i = 0; i < N_LANES; i++)
        pthread_join(threads[i], NULL);
    CHECK(write(wake_fd, &one, sizeof one) == sizeof one, "nobody to be woken");
    pthread_join(listener, NULL);
    told += take_all();
    check_all();
    empty();
    check_nothing_passed();
    uint64_t learned = 0, moves = 0;
    for (int i = 1; i <= N_LANES; i++) {
        learned += tables->seats[i].counters.learned;
        moves += tables->seats[i].counters.moves;
        dropped += rings[i - 1].dropped;
    }
    CHECK(told + dropped >= learned + moves, "an event that nobody got");
    printf("learned %lu moved %lu\n", (unsigned long)learned, (unsigned long)moves);
    vx_close(tables, N_VNIS);
    vx_unmap(tables, sizeof *tables);
    return learned && moves ? 0 : 1;
}
