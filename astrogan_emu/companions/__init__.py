"""Companions of stars in images: exoplanets by direct imaging.

`detect_companions` looks for faint companions in an angular differential imaging
sequence, with a detector that learns its noise from the sequence itself, on the same
conditional-GAN engine as the galaxy fields. Names are loaded on first use.
"""
