"""Who signs what they ask: clients of the file, and those made, changed and removed by orders."""
