"""What is known of members: who is one, who leaves, why others went, and whom an operator keeps out."""
