"""Typed façades over the C loops of bench/native; nothing else calls into them."""
