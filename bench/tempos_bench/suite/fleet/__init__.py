"""What is measured of several brokers on one bus."""
