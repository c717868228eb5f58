"""The stage `prepare`: datasets in, labelled and proven token rows out.

Two kinds of process make it up. The *parent* (:mod:`.stage`) reads the files (:mod:`.rows`) in batches and writes the
results (:mod:`.collecting`, :mod:`.writing`, :mod:`.packing`, :mod:`.report`). The *workers* (:mod:`.workers`,
:mod:`.worker`), one on each processor, do what takes time (:mod:`.pipeline`): they parse rows and make conversations of
them (:mod:`.reader`), then render, tokenize and label these and prove the labels (:mod:`.encoder`). A small dataset is
prepared in the parent alone. Nothing in the results tells how many processes made them.
"""
