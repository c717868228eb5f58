"""The FineTuneJob as people write it: its models, how it is read, and the CRD made from it."""
