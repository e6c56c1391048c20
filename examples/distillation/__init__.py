"""What the example scripts share: data, networks, training, explaining and reporting.

``experiment.run`` is the whole course; the other modules hold one step each.
"""
