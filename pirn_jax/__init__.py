"""Few-shot inspection of parts seen in RGB and 3D.

Data takes one way through the rooms of this package, in this order, and imports follow it:
`data` -> `geometry` -> `encoders` -> `features` -> `method` -> `losses` -> `pirn` -> `protocol` -> `report`.
"""

__version__ = "0.1.0"
