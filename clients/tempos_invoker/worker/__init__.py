"""What runs inside a worker's process: ``python -m tempos_invoker.worker FD``.

One module for each way to run a function; `__main__` chooses among them. The process that started the worker
talks to it over one socket pair, in the records of :mod:`tempos_invoker.workers.frames`.
"""
