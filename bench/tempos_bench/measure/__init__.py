"""What scenarios share to measure with: brokers, loads, probes, searches, samples and their statistics."""
