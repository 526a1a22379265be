/* One multiprocessor and the programs that are resident on it, played instruction by instruction.

   The warp whose time is earliest goes next. It issues if its scoreboards, its scheduler and the
   pipe are free, or waits until they are. Times are clocks, rates bytes a clock of this
   multiprocessor's share. L2 and DRAM are queues: a load waits for its turn in both, then for the
   latency. When a program ends, the next of the launch takes its place. */

#include <stdlib.h>
#include <string.h>

enum Pipe { NO_PIPE, ALU, FMA, XU, TENSOR, LSU, PIPES };
enum Kind { OTHER, LOAD, ASYNC_LOAD, ASYNC_PRODUCT };
enum Effect { NO_EFFECT, BARRIER, WAIT_LOADS, WAIT_PRODUCTS, CLOSE_LOADS, FENCE };
enum Cause { FIXED, MEMORY, SHARED, PRODUCT, PIPE_BUSY, CAUSES };

enum { SCHEDULERS = 4, SCOREBOARDS = 6, GROUPS = 8, LSU_QUEUE = 40, TENSOR_QUEUE = 8 };
#define NEVER 1e300

typedef struct {
  int pipe, kind, effect;
  int pending;             /* groups that may be pending after a wait */
  int closes;              /* whether it ends a group of asynchronous products */
  int stall, sets, reads;  /* scoreboards, or -1 */
  int waits;               /* a bit for each scoreboard */
  double cycles, latency, l2, dram, stores;
} Instruction;

typedef struct {
  int warps, resident, programs;
  double rounds;  /* of the body, for each program */
  double dram, l2, latency, barrier, fence, start;
} Launch;

typedef struct {
  double clocks;   /* of the launch */
  double round;    /* of a round of the body, of one program */
  double issued, busy[PIPES], dram;
  double waited[CAUSES]; /* summed over warps */
  double in_flight;      /* bytes of loads, times clocks */
  double loading;        /* clocks from the first load to the last */
} Result;

typedef struct { /* asynchronous operations in groups, of which each is done at a time */
  double done[GROUPS], open;
  int count;
} Groups;

typedef struct {
  int program, piece, at, round;
  double began; /* the loop */
  double scoreboard[SCOREBOARDS];
  int cause[SCOREBOARDS];
  Groups loads, products;
} Warp;

typedef struct {
  double issue[SCHEDULERS], pipe[PIPES][SCHEDULERS]; /* when they are free; all share one LSU */
  double l2, dram;
} Busy;

static double later(double a, double b) { return a > b ? a : b; }

static void close_group(Groups *g, double now) {
  if (g->count == GROUPS) memmove(g->done, g->done + 1, --g->count * sizeof(double));
  g->done[g->count++] = later(g->open, now);
  g->open = 0;
}

static double group_done(const Groups *g, int pending, double now) {
  for (int k = 0; k < g->count - pending; k++) now = later(now, g->done[k]);
  return now;
}

/* When what it depends on is there, and what that was. */
static double ready(const Warp *w, const Instruction *i, double now, int *cause) {
  double at = now;
  for (int b = 0; b < SCOREBOARDS; b++)
    if (i->waits >> b & 1 && w->scoreboard[b] > at) at = w->scoreboard[b], *cause = w->cause[b];
  double groups = at;
  if (i->effect == WAIT_LOADS) groups = group_done(&w->loads, i->pending, at);
  if (i->effect == WAIT_PRODUCTS) groups = group_done(&w->products, i->pending, at);
  if (groups > at) *cause = i->effect == WAIT_LOADS ? MEMORY : PRODUCT;
  return groups;
}

/* When its scheduler and its pipe can take it. */
static double accepted(const Busy *busy, const Instruction *i, int scheduler, double now) {
  double pipe = busy->pipe[i->pipe][i->pipe == LSU ? 0 : scheduler];
  if (i->kind == ASYNC_PRODUCT) pipe = 0;
  else if (i->pipe == TENSOR) pipe -= TENSOR_QUEUE;
  else if (i->pipe == LSU) pipe -= LSU_QUEUE;
  return later(later(now, busy->issue[scheduler]), i->pipe == NO_PIPE ? 0 : pipe);
}

/* Issue it now. Returns when its result is there, and what a warp that waits for it waits for. */
static double issue(Busy *busy, Warp *w, const Instruction *i, int scheduler, double now,
                    const Launch *launch, Result *result, int *cause) {
  *cause = SHARED;
  busy->issue[scheduler] = now + 1;
  result->issued += 1;
  if (i->pipe == NO_PIPE) return now + i->latency;

  double *pipe = &busy->pipe[i->pipe][i->pipe == LSU ? 0 : scheduler];
  double begin = later(now, *pipe), end = begin + i->cycles;
  *pipe = end;
  result->busy[i->pipe] += i->cycles;
  if (i->stores > 0) {
    busy->dram = later(now, busy->dram) + i->stores / launch->dram;
    busy->l2 = later(now, busy->l2) + i->stores / launch->l2;
    result->dram += i->stores / launch->dram;
  }
  if (i->kind == ASYNC_PRODUCT) {
    w->products.open = later(w->products.open, end + i->latency);
    if (i->closes) close_group(&w->products, 0);
    *cause = PRODUCT;
    return end + i->latency;
  }
  if (i->pipe == TENSOR) {
    *cause = PRODUCT;
    return begin + later(i->latency, i->cycles);
  }
  if (i->kind == LOAD || i->kind == ASYNC_LOAD) {
    double begun = later(end, busy->l2);
    busy->l2 = begun + i->l2 / launch->l2;
    busy->dram = later(begun, busy->dram) + i->dram / launch->dram;
    result->dram += i->dram / launch->dram;
    double done = later(busy->dram, busy->l2) + launch->latency;
    result->in_flight += (done - now) * i->dram;
    *cause = MEMORY;
    if (i->kind == LOAD) return done;
    w->loads.open = later(w->loads.open, done);
    return begin + 20; /* its registers are read; it is waited for by groups */
  }
  return i->pipe == LSU ? end + i->latency : now + i->latency;
}

void simulate(const Instruction *code, const int *const pieces[3], const int lengths[3],
              const Launch *launch, Result *result) {
  int warps = launch->warps, count = launch->resident * warps, next = 0, alive = 0;
  Warp *warp = calloc(count, sizeof(Warp));
  double *time = malloc(count * sizeof(double)); /* apart: the earliest is sought all the time */
  int *rounds = calloc(launch->programs, sizeof(int));
  int *arrived = calloc(launch->resident, sizeof(int));
  int *running = calloc(launch->resident, sizeof(int));
  double *released = calloc(launch->resident, sizeof(double));
  double first_load = -1, last_load = 0, in_loop = 0, looped = 0, carry = 0;
  Busy busy;
  memset(&busy, 0, sizeof busy);
  memset(result, 0, sizeof *result);

  for (int p = 0; p < launch->programs; p++) {
    carry += launch->rounds;
    rounds[p] = (int)(carry + 1e-9);
    carry -= rounds[p];
  }
  for (int k = 0; k < count; k++) time[k] = NEVER;
  for (int slot = 0; slot < launch->resident && next < launch->programs; slot++, next++)
    for (int k = slot * warps; k < (slot + 1) * warps; k++) {
      warp[k].program = next, time[k] = slot * 97.0;
      running[slot]++, alive++;
    }

  while (alive > 0) {
    int me = 0;
    for (int k = 1; k < count; k++) if (time[k] < time[me]) me = k;
    Warp *w = &warp[me];
    int slot = me / warps, scheduler = me % SCHEDULERS;

    if (w->piece == 0 && w->at == lengths[0]) w->piece = 1, w->at = 0, w->began = time[me];
    if (w->piece == 1 && w->at == lengths[1]) w->at = 0, w->round++;
    if (w->piece == 1 && w->round == rounds[w->program]) {
      w->piece = 2, w->at = 0;
      if (me % warps == 0) in_loop += time[me] - w->began, looped += w->round;
    }
    if (w->piece == 2 && w->at == lengths[2]) {
      result->clocks = later(result->clocks, time[me]);
      double end = time[me];
      time[me] = NEVER, alive--;
      if (--running[slot] == 0 && next < launch->programs) {
        memset(&warp[slot * warps], 0, warps * sizeof(Warp));
        for (int k = slot * warps; k < (slot + 1) * warps; k++)
          warp[k].program = next, time[k] = end + launch->start;
        running[slot] = warps, alive += warps, next++;
      }
      continue;
    }

    const Instruction *i = &code[pieces[w->piece][w->at]];
    int cause = FIXED;
    double now = time[me], there = ready(w, i, now, &cause);
    double start = accepted(&busy, i, scheduler, there);
    result->waited[cause] += there - now;
    result->waited[PIPE_BUSY] += start - there;
    if (start > now + 0.5) { /* others may come first */
      time[me] = start;
      continue;
    }
    double done = issue(&busy, w, i, scheduler, start, launch, result, &cause);
    if (i->kind == LOAD || i->kind == ASYNC_LOAD) {
      if (first_load < 0) first_load = start;
      last_load = later(last_load, start);
    }
    if (i->effect == CLOSE_LOADS) close_group(&w->loads, start);
    w->at++;
    time[me] = start + (i->stall > 1 ? i->stall : 1) + (i->effect == FENCE ? launch->fence : 0);
    if (i->sets >= 0 && done > w->scoreboard[i->sets])
      w->scoreboard[i->sets] = done, w->cause[i->sets] = cause;
    if (i->reads >= 0) {
      double read = 8 + (i->pipe == LSU ? busy.pipe[LSU][0] : start);
      if (read > w->scoreboard[i->reads]) w->scoreboard[i->reads] = read, w->cause[i->reads] = SHARED;
    }
    if (i->effect == BARRIER) {
      released[slot] = later(released[slot], time[me]);
      time[me] = NEVER;
      if (++arrived[slot] == warps) {
        for (int k = slot * warps; k < (slot + 1) * warps; k++)
          time[k] = released[slot] + launch->barrier;
        arrived[slot] = 0, released[slot] = 0;
      }
    }
  }
  result->clocks = later(result->clocks, busy.dram); /* what was written has to get there */
  result->round = looped > 0 ? in_loop / looped : 0;
  result->loading = last_load - first_load;
  free(warp), free(time), free(rounds), free(arrived), free(running), free(released);
}
