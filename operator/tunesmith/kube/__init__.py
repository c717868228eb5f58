"""The only way to the Kubernetes API: a protocol of a few verbs, and the one real implementation."""
