"""The sections of `bench.gpu`: functions that take the rig and yield the rows of their tables, one by one."""
