"""What a launch looks like, decided before anything is launched and without torch.

``problem`` says what is asked, ``plan`` what is answered; ``rule`` always has an answer, ``store``
keeps measured ones on disk, and ``choice`` looks them up: cache, shipped table, rule.
"""
