from libc.stdint cimport uint32_t, uint64_t

cdef class CpuPlacement:
    cdef uint32_t cpu_count
    cdef int *cpus
    cdef readonly int held_cpu                 # the only one that this process may use now, or -1
    cdef int trial                    # index into cpus of the one on trial, or NO_TRIAL
    cdef int best_cpu                 # of this round of trials; -1: none
    cdef uint64_t best_ns
    cdef uint64_t roaming_ns          # what a window of trips took when it was last held to none
    cdef uint64_t least_trip_ns       # on the best of the cores that were last tried
    cdef uint64_t held_since_ns
    cdef uint64_t next_trial_ns
    cdef uint64_t trial_interval_ns
    cdef uint64_t trip_began_ns
    cdef uint32_t trip_count          # trips of this trial or of this window
    cdef uint64_t trips_ns            # ... and what they took
    cdef uint32_t depth_score         # how much of late was done several requests at a time

    cdef void note_completed(self, uint32_t completed_count, uint32_t inflight_count) noexcept nogil
    cdef void _note_depth(self, uint64_t now_ns) noexcept nogil
    cdef void _note_trip(self, uint64_t now_ns) noexcept nogil
    cdef void _go_to(self, int cpu) noexcept nogil
    cdef void _leave(self, uint64_t now_ns) noexcept nogil
    cdef bint _is_worth_a_trial(self, uint64_t now_ns) noexcept nogil
    cdef void _end_trial(self, uint64_t now_ns) noexcept nogil
    cdef void _start(self, int trial, int cpu) noexcept nogil
    cdef void _end_window(self, uint64_t now_ns) noexcept nogil
