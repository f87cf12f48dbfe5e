"""The sections of `bench.gpu`: each a function that takes the rig and yields the rows of its table as it finds them."""
