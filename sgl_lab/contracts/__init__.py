"""Types that all rooms share: ids, sampling parameters, errors, events and the backend port.

Standard library only. Nothing here knows how a token is computed, how a program is interpreted or
how anything is drawn.
"""
