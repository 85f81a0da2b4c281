"""PIRN: prototypes, balanced transport, refinement on each part, communication between the modalities."""

from pirn_jax.pirn.decoder import Config, Decoder, pirn

__all__ = ["Config", "Decoder", "pirn"]
