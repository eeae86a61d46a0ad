"""From one life of the broker to the next: what is stored, and what is made of it again."""
