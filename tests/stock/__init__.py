"""Runs tempos on the kernels that people have: packages of the distribution, booted by qemu.

From `tests/`: `python -m stock`. What it makes is made from packages alone and kept (cache.py): a root file
system (root.py), kernels (kernels.py), and the tree under test, installed by the root's own Python and
compilers (tree.py). A boot (machine.py) runs the steps of a job (job.py) inside the guest (guest.py).
"""
