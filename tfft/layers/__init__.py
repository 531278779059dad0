"""Keras layers that models built by tfft contain, registered so that a ``.keras`` file loads after ``import tfft``."""
