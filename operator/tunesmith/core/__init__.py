"""The pure core: what is left to do of a job, computed from the job and the results so far. No I/O, no clock."""
