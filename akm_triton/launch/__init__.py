"""What a launch is told, decided before anything is launched.

``problem`` and ``device`` are the question, ``plan`` the answer. ``rule`` has an answer for every
question, ``store`` keeps measured ones on disk, and ``choice`` looks them up: in the user's cache,
then among the plans shipped for the device, then by the rule.
"""
