"""What the benchmarks of `prepare` share: the data, our side, and the peers in environments of their own."""
