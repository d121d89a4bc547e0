"""Jobs: the queue, the journal that survives crashes, the blobs and the worker processes that do the work."""
