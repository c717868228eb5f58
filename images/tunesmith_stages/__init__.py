"""The stage programs of Tunesmith: what runs in a Job's pod, or as a local process, for one stage of a job."""
