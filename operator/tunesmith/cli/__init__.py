"""The command line: `tunesmith run`, `plan`, `validate` and `crd`."""
