"""What a platform asks of broker, triggers and invokers, and in which order to get there. No I/O."""
