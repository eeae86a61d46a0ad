"""The three-node harness: network namespaces, scenarios, statistics, reports, the demo."""
