"""What becomes of each event, decided without I/O: times come in, what is to be done goes out."""
