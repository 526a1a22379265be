"""How fast a compiled kernel should be on a Hopper GPU, read from its machine code. A model.

``sass`` reads the machine code, ``loops`` finds the way through it, ``needs`` says what each
instruction takes of the ``machine``, ``launches`` what a launch moves: its ``work``. From these
``bounds`` adds up what each resource needs for a tile, and ``simulation`` plays the resident
programs through one multiprocessor, which also shows whether the next tile is on its way while this
one is computed. ``estimate`` puts both together, ``calibration`` for kernels of known speed and
``sweep`` for the ``cases`` of ``python -m bench predict``, whose options ``command`` reads.
"""
