"""Few-shot inspection of parts seen in RGB and 3D.

Data flows through these modules in order; imports follow:
`data` -> `geometry` -> `encoders` -> `inputs` -> `features` -> `methods` -> `training` -> `scoring` -> `metrics` ->
`study` -> `inspection` and `report`.
"""

__version__ = "0.1.0"
