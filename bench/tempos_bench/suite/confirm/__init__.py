"""What is lost comes all the same: repair on both legs, and every event confirmed beside other systems."""
