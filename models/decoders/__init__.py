"""Decoders: from features to tokens. interface.py says what a decoder must offer, gru.py and transformer.py do so."""
