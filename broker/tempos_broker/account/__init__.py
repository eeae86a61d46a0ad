"""Where every event went: the ledger, accounts of members, and what publishers and members tell besides."""
