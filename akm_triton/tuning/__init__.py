"""Which tiles a launch uses: what was measured on this machine (``cache``), else the table shipped
for the device (``tables``), else the ``rule``; ``choice`` looks them up in that order.

``problem`` says what is asked, ``plan`` what is answered. ``space`` and ``cost`` propose plans in
the order of a model, and ``tuner`` measures them; ``session`` is ``akm_triton.tune``.
"""
