"""What a subscriber does with what comes: sockets, topics, events that wait, and what is known of losses."""
