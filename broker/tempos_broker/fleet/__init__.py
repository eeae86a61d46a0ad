"""Several brokers, one bus: who is in the fleet, and members that have their home at another broker."""
