"""The local edge: carries a plan out with processes on this machine. `tunesmith run` calls it."""
